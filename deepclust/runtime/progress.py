"""What a run is doing, how far it is, and when it will be done: a bar on a terminal, now and then a line elsewhere.

A run whose output goes to a log file prints nothing in its first 10 seconds. From then on it prints a line for each
stage that lasts 3 seconds, again whenever nothing was printed for 30, and one where a stage ends that has printed some.
So a quick run prints none, a long one is never silent for long, also while a library computes and does not come back,
and the last line of one that was killed names the stage that it was in.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

# Without a terminal: a line whenever there was none for so long; none before so much of a run; one of a stage that
# lasts so long, as it may be the one that is killed.
LINE_SECONDS = 30.0
FIRST_SECONDS = 10.0
STAGE_SECONDS = 3.0

Item = TypeVar("Item")


class _Clock:
    """When the latest line was printed, by any stage of this process, and whether one is under way."""

    def __init__(self) -> None:
        self.began = self.latest = -math.inf
        self.ended = -math.inf
        self.open = False

    def begin(self) -> None:
        """From now on the first line is due in `FIRST_SECONDS`."""
        self.began = time.monotonic()
        self.latest = self.began - LINE_SECONDS + FIRST_SECONDS

    def seconds_until_due(self, stage_began: float = math.inf) -> float:
        """Until the next line, sooner where a stage that began then has said nothing yet."""
        own = max(self.began + FIRST_SECONDS, stage_began + STAGE_SECONDS)
        return min(self.latest + LINE_SECONDS, own) - time.monotonic()


_CLOCK = _Clock()


def begin_run() -> None:
    """A run begins, in a process that may have had others before: it is quick until it has lasted a while."""
    _CLOCK.begin()


class _RateColumn(ProgressColumn):
    """Speed in the task's own unit, for example samples/s."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed and task.fields["unit"] else "", style="cyan")


class Stage:
    """A part of a run that may take long, as a context. A stage inside another one shows nothing.

    Args:
        description: what is done.
        total: how many steps it takes; None where nobody knows.
        unit: of the steps, in the plural.
        completed: steps that were done before.
        enabled: whether it shows anything; of several ranks the first one's alone.
        stderr: show it there instead of on stdout.

    Example:
        >>> with Stage("counting", total=3, unit="numbers") as stage:
        ...     for _ in range(3):
        ...         stage.advance()
        >>> stage.line()
        'counting: 3 of 3 numbers (100 %)'
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: str = "",
        completed: int = 0,
        enabled: bool = True,
        stderr: bool = False,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._before = completed
        self.detail = ""
        self.enabled, self._stderr = enabled, stderr
        self._bar: Progress | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._said = False
        self._began = time.monotonic()

    def __enter__(self) -> Stage:
        self._began = time.monotonic()
        self.enabled = self.enabled and not _CLOCK.open
        if not self.enabled:
            return self
        _CLOCK.open = True
        if self._began - _CLOCK.ended > LINE_SECONDS:  # what came before was another run
            begin_run()
        if self._stream.isatty():
            self._bar = self._new_bar()
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.done, unit=self.unit, detail=""
            )
            self._bar.start()
        else:
            self._thread = threading.Thread(target=self._print_when_due, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.enabled:
            return
        self.enabled = _CLOCK.open = False
        _CLOCK.ended = time.monotonic()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            if kind is None and (self._said or _CLOCK.seconds_until_due() <= 0):
                self._print(f"{self.description}: done in {duration(time.monotonic() - self._began)}")

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""
        self.done += steps
        if self._bar is not None:
            self._bar.advance(self._task, steps)

    def tell(self, detail: str) -> None:
        """A few words to show beside, instead of those that were told before."""
        self.detail = detail
        if self._bar is not None:
            self._bar.update(self._task, detail=detail)

    def line(self) -> str:
        """What it does, how far it is, and when it will be done."""
        seconds = time.monotonic() - self._began
        parts = [self.detail] if self.detail else []
        if self.total:
            unit = f" {self.unit}" if self.unit else ""
            parts.append(f"{self.done:,} of {self.total:,}{unit} ({100 * self.done // self.total} %)")
            if self._before < self.done < self.total:
                left = seconds / (self.done - self._before) * (self.total - self.done)
                parts.append(f"about {duration(left)} left")
        else:
            parts.append(f"for {duration(seconds)} so far")
        return f"{self.description}: {', '.join(parts)}"

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self._stderr else sys.stdout

    def _print_when_due(self) -> None:
        while not self._ended.wait(max(0.0, self._seconds_until_due())):
            if self._seconds_until_due() <= 0:
                self._said = True
                self._print(self.line())

    def _seconds_until_due(self) -> float:
        return _CLOCK.seconds_until_due(math.inf if self._said else self._began)

    def _print(self, line: str) -> None:
        _CLOCK.latest = time.monotonic()
        print(line, file=self._stream, flush=True)

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _RateColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeRemainingColumn(),
            transient=True,
            console=Console(file=self._stream),
        )


def tracked(
    items: Iterable[Item], description: str, total: int, *, unit: str = "", enabled: bool = True
) -> Iterator[Item]:
    """The items as they are, as a stage that advances when each is done."""
    with Stage(description, total, unit=unit, enabled=enabled) as stage:
        for item in items:
            yield item
            stage.advance()


def duration(seconds: float) -> str:
    """A time in the two largest of its units.

    Example:
        >>> duration(7.6), duration(75), duration(7500)
        ('8 s', '1 min 15 s', '2 h 5 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
