"""The staged search: each stage's candidate with the highest mean AMI over the tuning sets goes on into the next.

folder/
  chosen/<encoder>.json   the settings of every clusterer, which `apply` reads
  trials/<encoder>.json   every trial of every stage; and .csv

Every encoder has a search of its own, as in the paper, and files of its own: a sweep may search them in parallel.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, write_json, written_whole
from deepclust.zero_shot.cells import Cell, Row
from deepclust.zero_shot.protocol import (
    NO_REDUCTION,
    PROTOCOL_CLUSTERERS,
    Candidates,
    ProtocolClusterer,
    Settings,
    check_clusterers,
    check_installed,
    describe_reduction,
    option_stages,
)
from deepclust.zero_shot.runner import Runner

TRIAL_KEYS = ("stage", "encoder", "clusterer", "reduction", "options", "dataset", "ami", "n_found", "reason", "cell")


@dataclass(frozen=True)
class Choice:
    """The settings that the search chose for one clusterer and encoder.

    Attributes:
        reduction, options: the settings.
        ami: mean AMI of these settings over the tuning sets, as of the last stage they went through.
        tuned_on: the tuning sets that took part.
        notes: remarks on the choice.
    """

    reduction: Settings
    options: Settings
    ami: float | None = None
    tuned_on: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass
class Search:
    """The search for one encoder.

    Args:
        runner: makes the cells.
        encoder: the encoder.
        tuning: keys of the tuning sets, of which those that come with the encoder take part.
        clusterers: names; what one of them follows is searched even if it is not among them.
        candidates: what each stage tries.
        sets: tuning sets of single clusterers, where these are not all (affinity propagation at large N, in the paper).
        seed: of reductions and clusterers.
    """

    runner: Runner
    encoder: str
    tuning: Sequence[str]
    clusterers: Sequence[str]
    candidates: Candidates = field(default_factory=Candidates)
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    trials: list[Row] = field(default_factory=list)

    def run(self) -> dict[str, Choice]:
        """Search every stage, write `chosen/` and `trials/`, and return the choices by clusterer.

        Raises:
            InputError: if a tuning set is missing or has no labels, a clusterer's library is not installed, or none of
                its candidates has a result.
        """
        wanted = check_clusterers(self.clusterers)
        check_installed(wanted)
        led = [item.follows for item in wanted if item.follows is not None and item.follows not in self.clusterers]
        searched = [PROTOCOL_CLUSTERERS[name] for name in led] + wanted
        as_they_are = {item.name: Choice(NO_REDUCTION, item.defaults) for item in wanted if not item.searched}
        searched = [item for item in searched if item.searched]
        sets = {clusterer.name: self._sets(clusterer) for clusterer in searched}
        chosen = self._reduction_stage([item for item in searched if item.follows is None], sets)
        for stage in option_stages(self.candidates):
            if stage.clusterer not in sets or not stage.options:
                continue
            start = self._start(PROTOCOL_CLUSTERERS[stage.clusterer], chosen)
            tried = [replace(start, options={**start.options, **options}) for options in stage.options]
            (best,) = self._best(stage.name, {stage.clusterer: tried}, sets)
            chosen[stage.clusterer] = best
        chosen = {name: chosen[name] for name in sets if name in chosen}
        for name in [item.name for item in searched if item.name not in chosen]:
            raise InputError(f"search: no stage settles {name}: give it candidates")
        chosen |= as_they_are
        self._write(chosen)
        return chosen

    def _sets(self, clusterer: ProtocolClusterer) -> list[str]:
        """The tuning sets of a clusterer that come with this encoder."""
        named = list(self.sets.get(clusterer.name) or self.sets.get(clusterer.follows or "") or self.tuning)
        if not named:
            raise InputError("tuning is empty: name the data sets to search on")
        usable = [name for name in named if self.runner.available(name, self.encoder)]
        if not usable:
            raise InputError(f"none of the tuning sets {', '.join(named)} comes with encoder {self.encoder}")
        for name in usable:
            if self.runner.load(name, self.encoder).labels is None:
                raise InputError(f"tuning set {name} has no labels: the search maximizes AMI, which needs them")
        return usable

    def _reduction_stage(
        self, searched: Sequence[ProtocolClusterer], sets: Mapping[str, list[str]]
    ) -> dict[str, Choice]:
        reductions = self.candidates.reductions()
        tried = {item.name: [Choice(reduction, item.defaults) for reduction in reductions] for item in searched}
        # All clusterers at once: those that share a space share the reduction.
        best = dict(zip(tried, self._best("reduction", tried, sets), strict=True)) if tried else {}
        dims = self.candidates.consistent_umap_dims
        for name, choice in best.items():
            if choice.reduction["kind"] != "umap" or dims is None or choice.reduction.get("dims") == dims:
                continue
            consistent = [trial for trial in tried[name] if trial.reduction == {"kind": "umap", "dims": dims}]
            mean = self._mean_ami(name, consistent[0], choice.tuned_on) if consistent else None
            if mean is not None:
                note = (
                    f"best was {describe_reduction(choice.reduction)} at an AMI of {100 * (choice.ami or 0):.1f} %; "
                    f"UMAP {dims} is taken for consistency"
                )
                best[name] = replace(consistent[0], ami=mean, tuned_on=choice.tuned_on, notes=(note,))
        return best

    def _start(self, clusterer: ProtocolClusterer, chosen: Mapping[str, Choice]) -> Choice:
        start = chosen[clusterer.follows or clusterer.name]
        return replace(start, options={**start.options, **clusterer.defaults} if clusterer.follows else start.options)

    def _best(self, stage: str, tried: Mapping[str, Sequence[Choice]], sets: Mapping[str, list[str]]) -> list[Choice]:
        """The best choice of each clusterer, among the candidates that have a result on every set."""
        cells = [
            self._cell(dataset, name, choice)
            for name, choices in tried.items()
            for choice in choices
            for dataset in sets[name]
        ]
        for row in self.runner.run(cells):
            self.trials.append({"stage": stage, **{key: row[key] for key in TRIAL_KEYS if key != "stage"}})
        best = []
        for name, choices in tried.items():
            # A set on which no candidate had a result does not count: it may be too large for the clusterer.
            usable = [item for item in sets[name] if any(self._mean_ami(name, c, [item]) is not None for c in choices)]
            means = [self._mean_ami(name, choice, usable) for choice in choices]
            if not usable or all(mean is None for mean in means):
                reasons = [trial["reason"] for trial in self.trials if trial["clusterer"] == name and trial["reason"]]
                raise InputError(
                    f"search: no candidate of stage {stage} gave a result for {name} on every tuning set"
                    + (f" (the last: {reasons[-1]})" if reasons else "")
                )
            place = int(np.argmax([-np.inf if mean is None else mean for mean in means]))
            left_out = [item for item in sets[name] if item not in usable]
            notes = [*choices[place].notes, *(f"{item} is left out: no candidate ran on it" for item in left_out)]
            best.append(
                replace(choices[place], ami=means[place], tuned_on=tuple(usable), notes=tuple(dict.fromkeys(notes)))
            )
        return best

    def _cell(self, dataset: str, clusterer: str, choice: Choice) -> Cell:
        return Cell(dataset, self.encoder, clusterer, choice.reduction, choice.options, self.seed, silhouette=None)

    def _mean_ami(self, clusterer: str, choice: Choice, datasets: Sequence[str]) -> float | None:
        """Mean AMI over the data sets; None where one has no result."""
        ami_of_dataset = {
            trial["dataset"]: trial["ami"]
            for trial in self.trials
            if trial["clusterer"] == clusterer
            and trial["reduction"] == choice.reduction
            and trial["options"] == choice.options
        }
        values = [ami_of_dataset.get(dataset) for dataset in datasets]
        if not values or any(value is None for value in values):
            return None
        return float(np.mean(values))  # type: ignore[arg-type]

    def _write(self, chosen: Mapping[str, Choice]) -> None:
        folder = self.runner.folder
        write_json(folder / "trials" / f"{self.encoder}.json", self.trials)
        with (
            written_whole(folder / "trials" / f"{self.encoder}.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, TRIAL_KEYS)
            writer.writeheader()
            for trial in self.trials:
                plain = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in trial.items()}
                writer.writerow(plain)
        write_choices(folder / "chosen", self.encoder, chosen, seed=self.seed)


def write_choices(folder: Path, encoder: str, chosen: Mapping[str, Choice], *, seed: int) -> None:
    """Write `<folder>/<encoder>.json`, which `read_choices` reads and a person may edit."""
    content: dict[str, Any] = {"encoder": encoder, "seed": seed, "clusterers": {}}
    for name, choice in chosen.items():
        content["clusterers"][name] = {
            "reduction": dict(choice.reduction),
            "options": dict(choice.options),
            "ami": choice.ami,
            "tuned_on": list(choice.tuned_on),
            "notes": list(choice.notes),
        }
    write_json(folder / f"{encoder}.json", content)


def read_choices(folder: Path, encoder: str, clusterers: Sequence[str]) -> dict[str, Choice]:
    """The choices of an encoder by clusterer.

    Raises:
        InputError: if the file is missing or unreadable, or lacks a clusterer.
    """
    path = folder / f"{encoder}.json"
    if not path.is_file():
        raise InputError(f"no settings for encoder {encoder}: {path} is missing; search them with stage=search")
    try:
        saved = read_json(path, "search again with stage=search")["clusterers"]
        choices = {name: Choice(**settings) for name, settings in saved.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of chosen settings ({error}): search again with stage=search") from None
    fixed = {name: Choice(NO_REDUCTION, one.defaults) for name, one in PROTOCOL_CLUSTERERS.items() if not one.searched}
    choices = {**fixed, **choices}
    missing = [name for name in clusterers if name not in choices]
    if missing:
        raise InputError(f"{path} has no settings for {', '.join(missing)}: search them with stage=search")
    return {name: choices[name] for name in clusterers}
