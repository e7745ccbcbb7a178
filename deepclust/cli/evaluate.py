"""`deepclust evaluate …`: score a finished run again, on its own splits or other features, and measure it further."""

from __future__ import annotations

import time
from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("evaluate", evaluate)


def evaluate(config: dict[str, Any]) -> None:
    """Measure what was asked for, add it to what earlier commands measured, and print the tables."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.cli.run_folder import new_folder
    from deepclust.clustering import PROBE
    from deepclust.report.evaluation_tables import evaluation_tables
    from deepclust.report.tables import read_rows, report_console, results_table
    from deepclust.runs.evaluation import check_names, merged_rows
    from deepclust.runs.measure import features_alone, finished_run, measure
    from deepclust.runs.source import DataSource
    from deepclust.runtime.errors import InputError
    from deepclust.runtime.files import write_json

    metrics, figures = listed(config["metrics"]), listed(config["figures"])
    if config["run"] is None and config.get("data") is None:
        raise InputError("name the run to evaluate: run=<run folder>, or features alone: data=<data set>")
    if config["run"] is None and (config["n_clusters"] is not None or config["constraints"] is not None):
        raise InputError("n_clusters= and constraints= cut a finished run: name it, run=<run folder>")
    check_names(metrics, figures, without_run=config["run"] is None)
    if config["run"] is None:
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{DataSource.of(config).name}_features"
        trained_on: dict[str, Any] = {}
        evaluation = features_alone(config, new_folder(config["run_dir"], name))
    else:
        evaluation, config, trained_on = finished_run(config, metrics)
    rows_file = evaluation.folder / "evaluation.json"
    before = read_rows(rows_file)  # refused before hours of a probe, if at all
    results = measure(evaluation, metrics, figures, config, trained_on)
    write_json(rows_file, merged_rows(before, evaluation.rows))
    evaluation.written.insert(0, rows_file)
    console = report_console()
    rows = [row for row in evaluation.rows if row["method"] != PROBE]
    if rows:
        console.print(results_table(rows, notes=evaluation.notes))
    for part in evaluation_tables(evaluation.rows, results):
        console.print(part, style="italic dim" if isinstance(part, str) else None, markup=False)
    for path in evaluation.written:
        if path.suffix != ".svg":
            console.print(f"written to {path}", soft_wrap=True, markup=False)


def listed(names: Any) -> list[str]:
    """`metrics=[a,b]` or `metrics=a` as a list."""
    return [names] if isinstance(names, str) else list(names or [])


if __name__ == "__main__":
    main()
