"""`deepclust zero-shot …`: search settings on some data sets, apply them to others (Lowe et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepclust.cli.configure import run_hydra
from deepclust.runtime.errors import InputError

STAGES = ("search", "apply", "report")


def main() -> None:
    run_hydra("zero_shot", zero_shot)


def zero_shot(config: dict[str, Any]) -> None:
    """Run the stages that the settings ask for."""
    stages = STAGES if config["stage"] == "all" else (config["stage"],)
    if not set(stages) <= set(STAGES):
        raise InputError(f"stage={config['stage']} is unknown: one of {', '.join(STAGES)}, or all")
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.runtime.files import keep_checksums, remove_temporaries
    from deepclust.zero_shot import Runner, data_specs
    from deepclust.zero_shot.protocol import check_clusterers, check_name

    check_clusterers(config["clusterers"])
    if not config["encoders"]:
        raise InputError("encoders is empty: name at least one, such as raw")
    for encoder in config["encoders"]:
        check_name(encoder, "encoders")
    data = data_specs(config["data"])
    for setting in ("tuning", "test"):
        for name in config[setting]:
            if name not in data:
                raise InputError(f"{setting}: there is no data set '{name}': data has {', '.join(data)}")
    folder = Path(config["folder"]).expanduser()
    keep_checksums(folder)
    remove_temporaries(folder)
    runner = Runner(folder, data, config["features_dir"], config["workers"], config["retry"], study=config["study"])
    tuned = {name for names in (config["search"]["sets"] or {}).values() for name in names}
    for name in tuned:
        if name not in data:
            raise InputError(f"search.sets: there is no data set '{name}': data has {', '.join(data)}")
    searched = [*config["tuning"], *sorted(tuned)] if "search" in stages else []
    runner.check([*searched, *(config["test"] if "apply" in stages else [])], config["encoders"])
    if "search" in stages:
        search(config, runner)
    if "apply" in stages:
        apply(config, runner)
    if "report" in stages:
        report(config, runner)


def search(config: dict[str, Any], runner: Any) -> None:
    from deepclust.zero_shot import Candidates, Search
    from deepclust.zero_shot.protocol import check_clusterers, describe_reduction

    settings = dict(config["search"])
    sets = settings.pop("sets") or {}
    if sets:
        check_clusterers(list(sets))
    for encoder in config["encoders"]:
        chosen = Search(
            runner, encoder, config["tuning"], config["clusterers"], Candidates(**settings), sets, config["seed"]
        ).run()
        print(f"{encoder}: settings in {runner.folder / 'chosen' / f'{encoder}.json'}")
        for name, choice in chosen.items():
            options = ", ".join(f"{key}={value}" for key, value in choice.options.items() if value is not None)
            print(f"  {name}: {describe_reduction(choice.reduction)}; {options or 'defaults'}; AMI {choice.ami:.3f}")


def apply(config: dict[str, Any], runner: Any) -> None:
    from deepclust.zero_shot import apply_choices

    rows = apply_choices(
        runner,
        Path(config["chosen"]).expanduser() if config["chosen"] else runner.folder / "chosen",
        test=config["test"],
        encoders=config["encoders"],
        clusterers=config["clusterers"],
        seed=config["seed"],
        silhouette=config["silhouette"],
    )
    without = [row for row in rows if row["reason"]]
    print(f"{len(rows) - len(without)} of {len(rows)} cells have a result")
    for row in without:
        print(f"  {row['dataset']} {row['encoder']} {row['clusterer']}: {row['reason']}")


def report(config: dict[str, Any], runner: Any) -> None:
    from deepclust.extraction.encoder_catalog import backbone_family, encoder_training
    from deepclust.report.zero_shot_report import write_report
    from deepclust.zero_shot import read_overviews, read_results

    rows, probes = read_results(
        runner.folder, test=config["test"], encoders=config["encoders"], clusterers=config["clusterers"]
    )
    written = write_report(
        runner.folder / "report",
        rows,
        probes,
        overviews=read_overviews(runner.folder, test=config["test"], encoders=config["encoders"]),
        datasets={name: runner.data[name].column for name in config["test"]},
        encoders={name: config["encoder_titles"].get(name, name) for name in config["encoders"]},
        clusterers=config["clusterers"],
        tuned_on=config["tuning"],
        sources={
            name: spec.name or ""
            for name, spec in runner.data.items()
            if spec.split == "test" and spec.classes is None and spec.range is None
        },
        backbones={name: backbone_family(name) for name in config["encoders"]},
        domains={name: spec.domain for name, spec in runner.data.items() if spec.domain is not None},
        training={name: how for name in config["encoders"] if (how := encoder_training(name)) is not None},
    )
    print(f"{len(written)} tables and figures: {runner.folder / 'report' / 'report.md'}")


if __name__ == "__main__":
    main()
