"""A table of printed figures in Markdown, LaTeX (booktabs) and CSV; the three forms differ in nothing but syntax."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepclust.report.tables import ABSENT
from deepclust.runtime.files import written_whole


@dataclass(frozen=True)
class MatrixTable:
    """A table of printed figures.

    Attributes:
        name: of its files.
        caption: one sentence.
        header: the columns; the first `n_labels` are text.
        lines: the body.
        starts: the lines that open a group: a rule stands above them.
        bold, underlined: (line, column) places.
        notes: sentences below it.
        n_labels: columns of text on the left.
        marks: a sign behind the figure of a (line, column) place, which a note explains.
    """

    name: str
    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    starts: frozenset[int] = frozenset()
    bold: frozenset[tuple[int, int]] = frozenset()
    underlined: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = field(default=())
    n_labels: int = 2
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def markdown(self) -> str:
        """`**best**` and `<u>best of its group</u>`."""
        lines = [
            "| " + " | ".join(self.header) + " |",
            "|" + "|".join("---" if column < self.n_labels else "---:" for column in range(len(self.header))) + "|",
        ]
        for place, line in enumerate(self.lines):
            cells = [self._marked(place, column, cell, "**{}**", "<u>{}</u>") for column, cell in enumerate(line)]
            lines.append("| " + " | ".join(cells) + " |")
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A `table` environment for `\\usepackage{booktabs}`."""
        columns = "l" * self.n_labels + "r" * (len(self.header) - self.n_labels)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(' '.join([self.caption, *self.notes]))}}}",
            rf"\label{{tab:{self.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_tex, self.header)) + r" \\",
            r"\midrule",
        ]
        for place, line in enumerate(self.lines):
            if place and place in self.starts:
                lines.append(r"\midrule")
            cells = [
                self._marked(place, column, _tex(cell), r"\textbf{{{}}}", r"\underline{{{}}}", _tex)
                for column, cell in enumerate(line)
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """Every group's name on every line, absent figures empty, no marks: plain numbers."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.header)
        group = ""
        for line in self.lines:
            group = line[0] or group
            writer.writerow([group, *("" if cell == ABSENT else cell for cell in line[1:])])
        return stream.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write `.md`, `.tex` and `.csv`, each whole or not at all."""
        written = []
        for suffix, text in ((".md", self.markdown()), (".tex", self.latex()), (".csv", self.csv())):
            path = folder / f"{self.name}{suffix}"
            with written_whole(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
        return written

    def _marked(
        self, line: int, column: int, cell: str, bold: str, underlined: str, written: Callable[[str], str] = str
    ) -> str:
        cell += written(self.marks.get((line, column), ""))
        if (line, column) in self.underlined:
            cell = underlined.format(cell)
        return bold.format(cell) if (line, column) in self.bold else cell


def _tex(text: str) -> str:
    for plain, written in (
        ("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("#", r"\#"), ("_", r"\_"), ("$", r"\$"),
        ("{", r"\{"), ("}", r"\}"), ("–", "--"), ("×", r"$\times$"), ("ρ", r"$\rho$"), ("ℓ", r"$\ell$"),
        ("~", r"\textasciitilde "), ("^", r"\textasciicircum "), ("†", r"$^\dagger$"), ("‡", r"$^\ddagger$"),
    ):  # fmt: skip
        text = text.replace(plain, written)
    return text
