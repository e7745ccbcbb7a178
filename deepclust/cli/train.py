"""`deepclust train …`: train clustering heads on frozen features and score them beside classical clustering."""

from __future__ import annotations

from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("train", train)


def train(config: dict[str, Any]) -> None:
    """Run the experiment that the settings ask for, in a run folder of its own."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.cli.run_folder import in_a_sweep, run_folder
    from deepclust.report.tables import candidates_table, report_console, results_table
    from deepclust.runs.config import read_experiment
    from deepclust.runs.dashboard import show_run
    from deepclust.training.lost_ranks import told_of_lost_ranks
    from deepclust.training.termination import ended_by_sigterm
    from deepclust.training.trainer import leave_processes

    folder, resume = run_folder(config)
    experiment = read_experiment(config, folder if resume else None)

    def continued_by() -> str:
        if in_a_sweep() and config["run_dir"] is not None:
            return "the same command continues the sweep"
        if folder.config.is_file():
            return f"continue with the same settings and resume={folder.path}"
        return "nothing was saved yet, so start the run again"

    try:
        with told_of_lost_ranks():
            experiment.check(alone=in_a_sweep())
        if resume and config["resume"] is None and experiment.is_finished(folder):  # a job of a sweep that is run again
            print(f"{folder.path} is finished already: {folder.results}")
            return
        with told_of_lost_ranks(), ended_by_sigterm(continued_by):
            results = experiment.run(folder, resume=resume, progress=True, show=show_run)
    finally:
        leave_processes()
    if results is not None:
        console = report_console()
        if results.rows:
            console.print(results_table(results.rows, notes=results.notes))
        if results.candidates:
            # Where there is no other table, the notes stand under this one.
            console.print(candidates_table(results.candidates, notes=() if results.rows else results.notes))
        console.print(f"run folder: {folder.path}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
