"""The figures of docs/wandb.md, drawn from what runs logged to W&B offline.

    python benchmarks/wandb_figures.py run runs/watched --out docs/images/wandb_run
    python benchmarks/wandb_figures.py search runs/search --x learning_rate --out docs/images/wandb_search

`run` draws the curves of one run, every head a line and the head that is kept in color. `search` draws, for all runs
below a folder, what a label-free measure says of a setting beside the accuracy, and prints their rank correlation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from scipy.stats import spearmanr
from wandb_files import LoggedRun, read_run, wandb_files

from deepclust.report.figures import MARKERS, PALETTE, STYLE, TWO_COLUMNS, new_figure, save_figure

GRAY = "#b8b8b8"
# Names of metrics by head, and the title of their panel.
BY_HEAD = {
    "train/loss_head": "loss",
    "heads/pair_information": "pair information, nats",
    "heads/entropy": "entropy, nats",
    "heads/clusters_in_use": "clusters in use",
}
OF_THE_RUN = {"train/agreement": "agreement among heads", "train/learning_rate": "learning rate"}
MEASURES = {"train/pair_information": "pair information, nats", "train/silhouette": "silhouette"}


def draw_run(run: LoggedRun, out: Path) -> None:
    """The curves of one run."""
    n_heads = int(run.config["n_heads"])
    losses = [run.column(f"train/loss_head_{head:02d}")[-1] for head in range(n_heads)]
    kept = int(np.argmin(losses))
    figure, axes = new_figure(TWO_COLUMNS, 3.6, n_rows=2, n_columns=3)
    for panel, (name, title) in zip(axes, BY_HEAD.items()):
        for head in sorted(range(n_heads), key=lambda one: one == kept):
            style = {"color": PALETTE[0], "linewidth": 1.6} if head == kept else {"color": GRAY, "linewidth": 0.8}
            draw_curve(panel, run.column(f"{name}_{head:02d}"), title, **style)
    axes[list(BY_HEAD).index("heads/clusters_in_use")].set_ylim(0, 1.1 * int(run.config["n_clusters"]))
    for panel, (name, title) in zip(axes[len(BY_HEAD) :], OF_THE_RUN.items()):
        draw_curve(panel, run.column(name), title, color=PALETTE[0])
    written = save_figure(figure, out)
    print(f"head {kept} of {n_heads} is kept; {', '.join(map(str, written))}")


def draw_curve(panel: Axes, values: Sequence[float], title: str, **style: object) -> None:
    panel.plot(range(1, len(values) + 1), values, **style)
    panel.set_title(title)
    panel.set_xlabel("epoch")


def draw_search(runs: Sequence[LoggedRun], by: str, out: Path) -> None:
    """Accuracy over each label-free measure, a point per run, colored by a setting."""
    settings = sorted({run.config[by] for run in runs})
    figure, axes = new_figure(TWO_COLUMNS, 2.6, n_columns=len(MEASURES))
    accuracy = [100 * run.column("train/acc")[-1] for run in runs]
    for panel, (measure, title) in zip(axes, MEASURES.items()):
        values = [run.column(measure)[-1] for run in runs]
        for place, setting in enumerate(settings):
            rows = [row for row, run in enumerate(runs) if run.config[by] == setting]
            panel.scatter(
                [values[row] for row in rows],
                [accuracy[row] for row in rows],
                color=PALETTE[place % len(PALETTE)],
                marker=MARKERS[place % len(MARKERS)],
                s=22,
                label=f"{by} {setting:g}",
            )
        panel.set(xlabel=title, ylabel="ACC, %")
        panel.locator_params(axis="x", nbins=6)
        found, best = spearmanr(values, accuracy).statistic, accuracy[int(np.argmax(values))]
        print(
            f"{measure}: Spearman's ρ with ACC {found:.2f} over {len(runs)} runs; its highest has ACC {best:.1f} "
            f"(of {min(accuracy):.1f} to {max(accuracy):.1f})"
        )
    axes[0].legend()
    print(", ".join(map(str, save_figure(figure, out))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "search"))
    parser.add_argument("folder", type=Path, help="a run folder, or one with run folders in it")
    parser.add_argument("--x", default="learning_rate", help="the setting that colors the runs of a search")
    parser.add_argument("--out", type=Path, required=True, help="the figure, without its suffix")
    options = parser.parse_args()
    with rc_context(STYLE):
        if options.what == "run":
            draw_run(read_run(wandb_files(options.folder)[-1]), options.out)
        else:
            folders = sorted(path.parent for path in options.folder.rglob("results.json"))
            draw_search([read_run(wandb_files(folder)[-1]) for folder in folders], options.x, options.out)


if __name__ == "__main__":
    main()
