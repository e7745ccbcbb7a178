"""Progress bars that look the same everywhere; nothing is drawn where stdout is not a terminal."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """Speed in the task's own `unit` field, for example samples/s."""

    def render(self, task: Task) -> Text:
        speed = task.fields.get("speed") or task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.0f} {task.fields.get('unit', '')}", style="cyan")


def progress_bar(enabled: bool = True) -> Progress:
    """A Rich progress bar with rate, details and time left; tasks take `unit`, `speed` and `detail` fields."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
        TimeRemainingColumn(),
        transient=True,
        disable=not (enabled and sys.stdout.isatty()),
    )
