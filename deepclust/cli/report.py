"""`deepclust report …`: a finished run as one page that works offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepclust.cli.configure import run_hydra

if TYPE_CHECKING:
    from deepclust.runs.reporting import FinishedRun


def main() -> None:
    run_hydra("report", report)


def report(config: dict[str, Any]) -> None:
    """Write the page and print where it is."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.features.texts import read_texts
    from deepclust.runs.reporting import FinishedRun, write_report
    from deepclust.runtime.errors import InputError

    if config["run"] is None:
        raise InputError("name the run to report: run=<run folder>")
    texts = None if config["texts"] is None else read_texts(Path(config["texts"]).expanduser())
    run = FinishedRun.read(config["run"])
    if config["words"] is not None:
        name_by_words(run, Path(config["words"]).expanduser())
    out = None if config["out"] is None else Path(config["out"]).expanduser()
    print(write_report(run, out, method=config["method"], texts=texts, map_kind=config["map"]))


def name_by_words(run: FinishedRun, path: Path) -> None:
    """Name the clusters of a run, in place, by words: the CLIP model that made its features compares them with images.

    Raises:
        InputError: if there is no such file, or the features are not of a CLIP model with the weights at hand.
    """
    from deepclust.extraction.encoders import load_encoder
    from deepclust.features.texts import read_texts
    from deepclust.report.cluster_names import names_by_features
    from deepclust.runtime.errors import InputError
    from deepclust.subsets.clip_labels import text_features

    words = [word for line in read_texts(path, "words") if (word := line.strip())]
    if not words:
        raise InputError(f"words={path} holds no word: give one, or a phrase, a line")
    features = run.dataset.train
    name = features.manifest.get("encoder", {}).get("name")
    if name is None:
        raise InputError("words= compares words with images, and these features do not say which encoder made them")
    encoder = load_encoder(name)
    made_by, at_hand = (told.get("weights", {}).get("sha256") for told in (features.manifest, encoder.describe()))
    if made_by != at_hand:
        raise InputError(f"these features are by other weights of {name} than those at hand: extract them again")
    text_WD = text_features(words, encoder.encode_text)
    for one in run.clusterings.values():
        found = names_by_features(features.features, one.labels, words, text_WD)
        one.settings["names"] = {**found, **{int(key): name for key, name in one.settings.get("names", {}).items()}}


if __name__ == "__main__":
    main()
