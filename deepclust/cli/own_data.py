"""Which heads data of one's own get where nobody names any: those that are best over many label sets."""

from __future__ import annotations

from collections.abc import Iterable

from hydra.core.override_parser.types import Override

OWN_DATA = ("features", "folder")
# What decides about heads, so that nothing is left to choose; a setting of a loss does, too.
DECIDED_BY = ("loss", "experiment", "benchmark")
# The heads that are best in the mean over label sets, where the number of clusters is given and where it is not
# (docs/leaderboard.md).
LOSS = "consensus_heads"


def loss_of_own_data(command: str, overrides: Iterable[Override]) -> list[str]:
    """`deepclust train` on features or a folder of one's own, without `loss=`: the word that says which.

    Args:
        command: the name of a file in conf/.
        overrides: of the command line.
    """
    asked = {override.key_or_group: override for override in overrides}
    if command != "train" or any(key.split(".")[0] in DECIDED_BY for key in asked):
        return []
    own = "data" in asked and asked["data"].value() in OWN_DATA
    return [f"loss={LOSS}"] if own else []
