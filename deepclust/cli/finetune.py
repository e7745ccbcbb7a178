"""`deepclust finetune …`: train an encoder further, with labels or with TSP's loss."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("finetune", finetune)


def finetune(config: dict[str, Any]) -> None:
    """Fine-tune the encoder that the settings name on the training split of the data set."""
    # Imported here: `--help` needs neither torch nor timm.
    from deepclust.cli.extract import asked_encoder, refuse_features
    from deepclust.extraction.sources import open_sources
    from deepclust.finetuning.finetune_settings import FinetuneSettings
    from deepclust.finetuning.run_finetuning import ENCODER, FinetuneRun
    from deepclust.training.termination import ended_by_sigterm
    from deepclust.training.trainer_settings import TrainerSettings

    data = config["data"]
    refuse_features(data)
    spec = asked_encoder(config)
    settings = FinetuneSettings(**{one.name: config[one.name] for one in fields(FinetuneSettings)})
    out = Path(config["out"] or f"finetuned/{data['name']}/{spec.name}-{settings.objective}").expanduser()
    sources = open_sources(data["name"], data["path"], labels=data["labels"])
    run = FinetuneRun(
        spec,
        sources["train"],
        settings,
        out,
        TrainerSettings(
            accelerator=config["accelerator"],
            precision=config["precision"],
            checkpoint_seconds=config["checkpoint_seconds"],
        ),
        workers=config["workers"],
        on_error=data["on_error"],
        progress=True,
    )
    with ended_by_sigterm(lambda: "give the same command again, and it goes on with the newest state"):
        if settings.objective == "tsp":
            report = tsp(run)
        else:
            report = run.with_labels(sources.get("test"))
    if "test_accuracy" in report:
        print(f"accuracy on the test split: {100 * report['test_accuracy']:.2f} %")
    print(f"the encoder, to be read by `encoder.checkpoint=` beside its other options: {out / ENCODER}")


def tsp(run: Any) -> dict[str, Any]:
    """TSP's ablation, and its table."""
    from deepclust.finetuning.encoder_with_tsp import train_with_tsp
    from deepclust.report.tables import report_console, results_table

    report = train_with_tsp(run)
    report_console().print(results_table(report["clusterings"]))
    return report


if __name__ == "__main__":
    main()
