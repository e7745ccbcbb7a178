"""Which heads data of one's own get where nobody names any: those that are best over many label sets."""

from __future__ import annotations

from collections.abc import Iterable

from hydra.core.override_parser.types import Override

OWN_DATA = ("features", "folder")
# What decides about heads, so that nothing is left to choose; a setting of a loss does, too.
DECIDED_BY = ("loss", "experiment", "benchmark")
# TSP learns from fewer pairs than TEMI, whose heads have enough of them from here on.
SMALL = 20_000


def loss_for(n_samples: int, n_clusters: int | None) -> str:
    """The heads that are best on the mean over label sets (docs/methods.md); where the number of clusters is to be
    chosen, several heads that start from different partitions are compared, so the consensus is none of these."""
    if n_clusters is not None:
        return "consensus_heads"
    return "tsp" if n_samples <= SMALL else "temi"


def loss_of_own_data(command: str, overrides: Iterable[Override]) -> list[str]:
    """`deepclust train` on features or a folder of one's own, without `loss=`: the word that says which.

    Args:
        command: the name of a file in conf/.
        overrides: of the command line.
    """
    asked = {override.key_or_group: override for override in overrides}
    if command != "train" or any(key.split(".")[0] in DECIDED_BY for key in asked):
        return []
    if "n_clusters" not in asked or "data" not in asked or asked["data"].value() not in OWN_DATA:
        return []
    given = asked["n_clusters"]
    numbers = list(given.sweep_iterator()) if given.is_sweep_override() else [given.value()]
    told = all(str(number).isdigit() for number in numbers)
    loss = loss_for(0, int(numbers[0]) if told else None)
    return [f"loss={loss}"]
