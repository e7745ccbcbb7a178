"""From the leaderboard's cells to docs/leaderboard.md and its figure.

The page is a person's; only what lies between `<!-- leaderboard: NAME -->` and `<!-- end -->` is written anew.

How cells become a table: scores are means over seeds; a cell that failed counts 0, and a method that failed with every
seed takes the last rank. Methods are ranked on each set, 1 is best, equals share the mean of their ranks. Ranks and
means are over the sets that all methods with ranks were run on; a method that lacks one of them has no rank.

Shape suffixes: M methods, S sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from deepclust.report.figures import PALETTE, TWO_COLUMNS, new_figure, save_figure
from deepclust.report.tables import plain_markdown, plain_table, report_console
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole

Cell = dict[str, Any]
DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURE = DOCS / "leaderboard.md", DOCS / "images" / "leaderboard"
SIGNIFICANCE = 0.05
# Scores closer than this are equal.
DIGITS = 4
ABSENT = "–"
SCORES = ("AMI", "ACC", "ARI")
BLOCK = "<!-- leaderboard: {name} -->\n{content}\n<!-- end -->"
OURS = "deepclust"


def read_cells(path: Path) -> list[Cell]:
    """The lines of a file of cells; none where there is no file. A last line that is cut off is left out."""
    cells = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            cells.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                print(f"{path.name}: line {number} cannot be read and is left out", flush=True)
    return cells


def newest(cells: Iterable[Cell]) -> list[Cell]:
    """Of the lines of one cell the last one."""
    return list({cell["key"]: cell for cell in cells}.values())


def factor_of(factor: float | None) -> str:
    return "not told" if factor is None else f"x {factor:g}"


@dataclass(frozen=True)
class Board:
    """Scores of methods on sets under one factor of C.

    Attributes:
        methods, sets: names, in the order of the cells.
        cells: (method, set) to its cells, one a seed, without those that were skipped.
    """

    methods: tuple[str, ...]
    sets: tuple[str, ...]
    cells: Mapping[tuple[str, str], Sequence[Cell]]

    @classmethod
    def of(cls, cells: Iterable[Cell], factor: float | None, sets: Iterable[str] | None = None) -> Board:
        """The cells of a factor, None for methods that are not told C, on all sets or on those given."""
        wanted = None if sets is None else set(sets)
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            if cell["factor"] == factor and "skipped" not in cell and (wanted is None or cell["set"] in wanted):
                groups.setdefault((cell["method"], cell["set"]), []).append(cell)
        return cls.over(groups, tuple(dict.fromkeys(name for _, name in groups)))

    def whole(self) -> Board:
        """The same on fewer sets: those of the largest rectangle of methods × sets without a gap, while cells are still
        to come. Of equal ones the one with more sets."""
        of_method = {one: {name for name in self.sets if (one, name) in self.cells} for one in self.methods}
        found: list[tuple[int, int, set[str]]] = []
        for at_least in {len(names) for names in of_method.values()}:
            broad = [names for names in of_method.values() if len(names) >= at_least]
            common = set.intersection(*broad)
            found.append((len(broad) * len(common), len(common), common))
        kept = max(found, key=lambda one: one[:2])[2] if found else set()
        return Board.over(self.cells, [name for name in self.sets if name in kept])

    @classmethod
    def over(cls, cells: Mapping[tuple[str, str], Sequence[Cell]], sets: Sequence[str]) -> Board:
        """Some of the cells, and the methods that are on any of these sets."""
        groups = {(one, name): found for (one, name), found in cells.items() if name in sets}
        return cls(tuple(dict.fromkeys(one for one, _ in groups)), tuple(sets), groups)

    def ranked(self) -> tuple[str, ...]:
        """The methods that were run on every set."""
        return tuple(one for one in self.methods if all((one, name) in self.cells for name in self.sets))

    def values(self, method: str, name: str, measure: str) -> list[float]:
        """Of each seed. One that failed has scores of 0, and nothing else is known of it."""
        cells = self.cells.get((method, name), ())
        return [float(cell.get(measure, 0.0)) for cell in cells if measure in cell or measure in SCORES]

    def scores(self, measure: str, methods: Sequence[str]) -> np.ndarray:
        """(M, S) means over seeds; NaN where there is no cell."""
        return np.array(
            [
                [np.mean(found) if (found := self.values(one, name, measure)) else np.nan for name in self.sets]
                for one in methods
            ]
        ).reshape(len(methods), len(self.sets))

    def ranks(self, measure: str, methods: Sequence[str]) -> np.ndarray:
        """(M, S) ranks on each set; a method of which every seed failed is last."""
        scores_MS = self.scores(measure, methods).round(DIGITS)
        for row, one in enumerate(methods):
            for column, name in enumerate(self.sets):
                if all("error" in cell for cell in self.cells[one, name]):
                    scores_MS[row, column] = -np.inf
        return mean_ranks(scores_MS)

    def spread(self, method: str, measure: str) -> list[float]:
        """Standard deviation over seeds on each set with several seeds."""
        found = [self.values(method, name, measure) for name in self.sets]
        return [float(np.std(values, ddof=1)) for values in found if len(values) > 1]


def mean_ranks(scores_MS: np.ndarray) -> np.ndarray:
    """(M, S) ranks within each column, the highest score 1, equals the mean of their places."""
    return stats.rankdata(-np.asarray(scores_MS), axis=0)


def critical_difference(n_methods: int, n_sets: int) -> float:
    """Mean ranks that are further apart differ (Nemenyi's test at 5 %; Demšar 2006, section 3.2.2)."""
    quantile = stats.studentized_range.ppf(1 - SIGNIFICANCE, n_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, by Holm's step-down correction, in the order given."""
    order = np.argsort(values)
    adjusted = np.maximum.accumulate((len(values) - np.arange(len(values))) * np.asarray(values)[order])
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(adjusted, 1.0)
    return corrected.tolist()


def against(scores_MS: np.ndarray, first: int) -> list[float | None]:
    """Holm's p-values of Wilcoxon's signed-rank test over sets of every row against one, whose own is None."""
    others = [row for row in range(len(scores_MS)) if row != first]
    raw = [
        float(stats.wilcoxon(scores_MS[row], scores_MS[first], zero_method="zsplit").pvalue)
        if (scores_MS[row] != scores_MS[first]).any()
        else 1.0
        for row in others
    ]
    found: list[float | None] = [None] * len(scores_MS)
    for row, value in zip(others, holm(raw) if raw else []):
        found[row] = value
    return found


def summary_cells(board: Board, titles: Mapping[str, str], unseen: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The table of methods: first those with ranks, best mean rank first, then the others by mean AMI."""
    board = board.whole()
    header = [
        "Method", "AMI", "ACC", "ARI", "rank by AMI", "rank by ACC", "AMI, unseen sets", "rank, unseen sets",
        "ACC over seeds ±", "worst ±", "CPU s", "MB", "p", "sets",
    ]  # fmt: skip
    ranked = board.ranked()
    lines = []
    if ranked:
        ranks = {measure: board.ranks(measure, ranked).mean(axis=1) for measure in ("AMI", "ACC")}
        part = np.isin(board.sets, unseen)
        unseen_ranks = board.ranks("AMI", ranked)[:, part].mean(axis=1) if part.any() else np.full(len(ranked), np.nan)
        order = sorted(range(len(ranked)), key=lambda row: (ranks["AMI"][row], ranks["ACC"][row]))
        tested = against(board.scores("AMI", ranked), order[0])
        for row in order:
            shown = [f"{ranks['AMI'][row]:.2f}", f"{ranks['ACC'][row]:.2f}", f"{unseen_ranks[row]:.2f}"]
            lines.append(_summary_line(board, ranked[row], titles, unseen, shown, tested[row]))
    others = [one for one in board.methods if one not in ranked]
    others.sort(key=lambda one: -np.nanmean(board.scores("AMI", [one])))
    lines += [_summary_line(board, one, titles, unseen, [ABSENT] * 3, None) for one in others]
    return header, lines


def _summary_line(
    board: Board, method: str, titles: Mapping[str, str], unseen: Sequence[str], ranks: Sequence[str], p: float | None
) -> list[str]:
    means = {measure: board.scores(measure, [method])[0] for measure in ("AMI", "ACC", "ARI", "cpu_seconds", "peak_MB")}
    part = np.isin(board.sets, unseen) & ~np.isnan(means["AMI"])
    spread = board.spread(method, "ACC")
    return [
        titles.get(method, method),
        *(f"{np.nanmean(means[measure]):.3f}" for measure in SCORES),
        *ranks[:2],
        f"{means['AMI'][part].mean():.3f}" if part.any() else ABSENT,
        ranks[2],
        *((f"{np.mean(spread):.3f}", f"{max(spread):.3f}") if spread else (ABSENT, ABSENT)),
        *(_median(means[measure]) for measure in ("cpu_seconds", "peak_MB")),
        ABSENT if p is None else f"{p:.2g}",
        str(int((~np.isnan(means["AMI"])).sum())),
    ]


def sets_cells(board: Board, titles: Mapping[str, str], measure: str) -> tuple[list[str], list[list[str]]]:
    """Sets × methods: mean ± deviation over seeds, the best in bold."""
    lines = []
    for name in board.sets:
        found = [board.values(method, name, measure) for method in board.methods]
        best = max(np.mean(values) for values in found if values)
        lines.append([name, *(_mean_spread(values, best) for values in found)])
    return ["Method", *(titles.get(one, one) for one in board.methods)], lines


def factor_cells(
    cells: Sequence[Cell], titles: Mapping[str, str], factors: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Methods × factors of C: mean AMI and mean rank over the sets of that factor."""
    boards = [Board.of(cells, factor).whole() for factor in factors]
    header = ["Method"]
    columns: list[dict[str, tuple[str, str]]] = []
    for factor, board in zip(factors, boards):
        header += [f"AMI, C × {factor:g}", f"rank, C × {factor:g} ({len(board.sets)} sets)"]
        ranked = board.ranked()
        ranks = dict(zip(ranked, board.ranks("AMI", ranked).mean(axis=1))) if ranked else {}
        columns.append(
            {
                one: (f"{np.nanmean(board.scores('AMI', [one])):.3f}", f"{ranks[one]:.2f}" if one in ranks else ABSENT)
                for one in board.methods
            }
        )
    methods = dict.fromkeys(one for board in boards for one in board.methods)
    lines = [
        [titles.get(one, one), *(part for found in columns for part in found.get(one, (ABSENT, ABSENT)))]
        for one in methods
    ]
    return header, sorted(lines, key=lambda line: line[2])


def found_cells(board: Board, titles: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Sets × methods that are not told C: AMI, how many clusters they found, and the share of noise."""
    lines = []
    for name in board.sets:
        classes = next(cells[0]["n_classes"] for (_, one), cells in board.cells.items() if one == name)
        shown = []
        for method in board.methods:
            if not (values := board.values(method, name, "AMI")):
                shown.append(ABSENT)
                continue
            found, noise = (np.mean(board.values(method, name, part)) for part in ("found", "noise"))
            shown.append(f"{np.mean(values):.3f}; {found:.0f}" + (f"; {noise:.0%}" if noise >= 0.005 else ""))
        lines.append([name, str(classes), *shown])
    return ["Method", "classes", *(titles.get(one, one) for one in board.methods)], lines


def blocks(cells: Sequence[Cell], titles: Mapping[str, str], about: Mapping[str, str], sets: Any) -> dict[str, str]:
    """What is between the page's markers, by name."""
    unseen = [name for name in sets if not sets[name].tuned_on]
    unequal = [name for name in sets if sets[name].unequal]
    told, untold = Board.of(cells, 1.0), Board.of(cells, None)
    factors = [factor for factor in (0.5, 1.0, 2.0, 4.0) if Board.of(cells, factor).methods]
    failures = [f"- {titles.get(c['method'], c['method'])} on {c['set']}, seed {c['seed']}, {_told(c)}: {c['error']}"
                for c in cells if "error" in c]  # fmt: skip
    skipped = dict.fromkeys(
        f"- {titles.get(c['method'], c['method'])} on {c['set']}, {_told(c)}: not tried, {c['skipped']}"
        for c in cells
        if "skipped" in c
    )
    listed = [
        [
            name, one.kind, one.about, str(sizes[0]), str(sizes[1]), "yes" if one.tuned_on else "",
            "yes" if one.unequal else "",
        ]
        for name, one in sets.items()
        if (sizes := _sizes(cells, name))
    ]  # fmt: skip
    versions = {cell["method"]: cell.get("version", "") for cell in cells}
    return {
        "summary": _markdown(summary_cells(told, titles, unseen), to_come(told, sets)),
        "not told": _markdown(summary_cells(untold, titles, unseen), to_come(untold, sets)),
        "found": _markdown(found_cells(untold, titles)),
        "factors": _markdown(factor_cells(cells, titles, factors)),
        "imbalance": _markdown(summary_cells(Board.of(cells, 1.0, unequal), titles, unseen)),
        "AMI by set": _markdown(sets_cells(told, titles, "AMI")),
        "ACC by set": _markdown(sets_cells(told, titles, "ACC")),
        "sets": _markdown((["Method", "kind", "about", "N", "classes", "tuned on", "unequal"], listed)),
        "methods": "\n".join(
            f"- **{titles[one]}** ({versions[one]}): {about[one]}" for one in titles if one in versions
        ),
        "failures": "\n".join([*failures, *skipped]) or "None.",
    }


def write_page(cells: Sequence[Cell], titles: Mapping[str, str], about: Mapping[str, str], sets: Any) -> None:
    """Put the tables between the page's markers and draw the figure.

    Raises:
        InputError: if there are no cells, or the page lacks a marker.
    """
    if not cells:
        raise InputError("there are no cells to write a page of: run the leaderboard first")
    text = filled(PAGE.read_text(encoding="utf-8"), blocks(cells, titles, about, sets))
    draw({"C given": Board.of(cells, 1.0), "not told C": Board.of(cells, None)}, titles, FIGURE)
    with written_whole(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def filled(text: str, contents: Mapping[str, str]) -> str:
    """A page with new contents between its markers, all else as it was.

    Raises:
        InputError: if it lacks a marker.
    """
    for name, content in contents.items():
        pattern = re.compile(re.escape(f"<!-- leaderboard: {name} -->") + r"\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            raise InputError(f"the page has no <!-- leaderboard: {name} --> … <!-- end -->: put both lines back")
        replacement = BLOCK.format(name=name, content=content.strip())
        text = pattern.sub(lambda _, new=replacement: new, text, count=1)
    return text


def draw(boards: Mapping[str, Board], titles: Mapping[str, str], path: Path) -> list[Path]:
    """Critical-difference diagrams, one above the other: mean ranks by AMI; bars join methods that do not differ.

    Groups of fewer than three ranked methods or two sets, which the tests cannot compare, are left out.
    """
    whole = {name: board.whole() for name, board in boards.items()}
    shown = {name: board for name, board in whole.items() if len(board.ranked()) > 2 and len(board.sets) > 1}
    if not shown:
        raise InputError("the figure compares three methods and more on two sets and more: run further cells")
    rows = [(len(board.ranked()) + 1) // 2 for board in shown.values()]
    figure, axes = new_figure(TWO_COLUMNS, 1.2 * len(shown) + 0.24 * sum(rows), n_rows=len(shown))
    for axis, (name, board) in zip(axes, shown.items()):
        _diagram(axis, name, board, titles)
    return save_figure(figure, path)


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last of each largest run of ascending ranks that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place in range(first, len(ranks)) if ranks[place] - rank <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _diagram(axis: Any, name: str, board: Board, titles: Mapping[str, str]) -> None:
    ranked = board.ranked()
    ranks_MS = board.ranks("AMI", ranked)
    means = ranks_MS.mean(axis=1)
    order = np.argsort(means, kind="stable")
    n_methods, n_sets = ranks_MS.shape
    difference = critical_difference(n_methods, n_sets)
    groups = cliques(means[order].tolist(), difference)
    friedman = stats.friedmanchisquare(*-ranks_MS).pvalue
    left = (n_methods + 1) // 2
    top, below = 0.0, -0.35 * len(groups) - 0.6
    axis.set_axis_off()
    axis.hlines(top, 1, n_methods, color="black", linewidth=0.8)
    for tick in range(1, n_methods + 1):
        axis.vlines(tick, top, top + 0.18, color="black", linewidth=0.8)
        axis.text(tick, top + 0.3, str(tick), ha="center", va="bottom")
    for number, (first, last) in enumerate(groups):
        height = top - 0.35 * (number + 1)
        ends = means[order[first]] - 0.03, means[order[last]] + 0.03
        axis.hlines(height, *ends, color="black", linewidth=2.5)
    for place, row in enumerate(order):
        is_left = place < left
        height = below - 0.65 * (place if is_left else n_methods - 1 - place)
        end = 1 - 0.03 * n_methods if is_left else n_methods + 0.03 * n_methods
        version = board.cells[ranked[row], board.sets[0]][0].get("version", "")
        color = PALETTE[3] if version.startswith(OURS) else "black"
        axis.plot([means[row], means[row], end], [top, height, height], color=color, linewidth=0.8)
        label = f"{titles.get(ranked[row], ranked[row])}  {means[row]:.2f}"
        side = -1 if is_left else 1
        axis.text(
            end + 0.02 * side * n_methods, height, label, ha="right" if is_left else "left", va="center", color=color
        )
    span = n_methods - 1
    axis.plot([1, min(1 + difference, n_methods)], [top + 1.6] * 2, color="black", linewidth=1.2)
    axis.text(1, top + 1.75, f"critical difference {difference:.2f}", ha="left", va="bottom")
    axis.set_title(f"{name}: mean rank by AMI over {n_sets} sets, Friedman p = {friedman:.1g}", loc="left")
    axis.set_xlim(1 - 0.45 * span, n_methods + 0.45 * span)
    axis.set_ylim(below - 0.65 * (left - 1) - 0.4, top + 2.7)


def print_summary(cells: Sequence[Cell], titles: Mapping[str, str]) -> None:
    """The means and ranks on the terminal."""
    console = report_console()
    for name, factor in (("C given", 1.0), ("not told C", None)):
        board = Board.of(cells, factor)
        if board.methods:
            header, lines = summary_cells(board, titles, ())
            keep = [header.index(part) for part in (*header[:6], "worst ±", "CPU s", "sets")]
            cut = [[line[column] for column in keep] for line in lines]
            console.print(plain_table([header[column] for column in keep], cut, title=name))


def to_come(board: Board, sets: Iterable[str]) -> list[str]:
    """A note of the sets that are not in means and ranks yet."""
    ranked = board.whole().sets
    missing = [name for name in sets if name not in ranked]
    return [f"Over {len(ranked)} sets. Still to come: {', '.join(missing)}."] if missing else []


def _markdown(table: tuple[list[str], list[list[str]]], notes: Sequence[str] = ()) -> str:
    return plain_markdown(*table, notes) if table[1] else "Not run yet."


def _sizes(cells: Sequence[Cell], name: str) -> tuple[int, int] | None:
    return next(((cell["n_samples"], cell["n_classes"]) for cell in cells if cell["set"] == name), None)


def _told(cell: Cell) -> str:
    return "not told C" if cell["factor"] is None else f"C × {cell['factor']:g}"


def _mean_spread(values: Sequence[float], best: float) -> str:
    if not values:
        return ABSENT
    mean = float(np.mean(values))
    shown = f"**{mean:.3f}**" if round(mean, DIGITS) == round(float(best), DIGITS) else f"{mean:.3f}"
    return f"{shown} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else shown


def _median(values: np.ndarray) -> str:
    """Of what is known; of a method that failed everywhere nothing is."""
    if np.isnan(values).all():
        return ABSENT
    median = float(np.nanmedian(values))
    return f"{median:.2g}" if median < 10 else f"{median:.0f}"
