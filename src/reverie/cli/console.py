"""Progress and messages on standard error.

On a terminal every stage has a bar with its rate and the time left. Elsewhere (a pipe, a log file) a stage gets one
plain line when it begins and one per tenth of the way, with no control characters.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from reverie.core.errors import NoEffect
from reverie.core.events import Event, Listener
from reverie.report.text import printable, seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["BarProgress", "PlainProgress", "bars", "progress", "quieted", "say"]


# What the other columns of a bar take, and the shortest figure that says anything.
BARS_WIDTH, FIGURES_LEAST = 78, 12


def say(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that shows events on standard error while the body runs."""
    if not sys.stderr.isatty():
        yield PlainProgress(sys.stderr)
        return
    # rich takes longer to import than all of `reverie --help`.
    from rich.console import Console

    with bars(Console(file=sys.stderr)) as shown:
        yield BarProgress(shown)


@contextmanager
def quieted(*, debug: bool) -> Iterator[None]:
    """Keep other libraries' warnings and logs off the screen; the package's own warnings become one line each.

    What other libraries warn about speaks of their code, not of the user's request; `debug` lets it through.
    """
    if debug:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", NoEffect)
            warnings.showwarning = _show_warning
            yield
    finally:
        logging.disable(before)


class PlainProgress:
    """Events as plain lines, at most eleven per stage."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._stage = ""
        self._began = (0, 0.0)
        self._last = Event("", 0, 1)

    def __call__(self, event: Event) -> None:
        """Write a line where the stage is new or a tenth has passed."""
        now = self._clock()
        if event.stage != self._stage or event.step < self._last.step:
            self._stage, self._began = event.stage, (event.step, now)
        elif _tenths(event) == _tenths(self._last):
            return
        self._last = event
        parts = [f"{event.stage}: {event.step} of {event.total}"]
        done, seconds = event.step - self._began[0], now - self._began[1]
        if done > 0 and seconds > 0:
            parts.append(f"{done / seconds:.3g} per s")
            if event.step < event.total:
                parts.append(f"{seconds_text((event.total - event.step) * seconds / done)} left")
        parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.figures.items()]
        self._stream.write(printable(", ".join(parts)) + "\n")
        self._stream.flush()


class BarProgress:
    """Events as bars of rich, one bar per stage."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Move the bar of the event's stage, making it first if need be."""
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.figures.items())
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total, figures="")
        task = self._tasks[event.stage]
        if event.step < self._bars.tasks[task].completed:
            self._bars.reset(task)
        self._bars.update(task, completed=event.step, total=event.total, figures=figures)


def bars(console: "Console") -> "Progress":
    """Bars of rich with rate, time and figures, on a console."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g} per s")

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    # Figures have what is left of the line, and are left out where that is next to nothing.
    left = console.width - BARS_WIDTH
    if left >= FIGURES_LEAST:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=left)
        columns.append(TextColumn("{task.fields[figures]}", markup=False, table_column=column))
    return Progress(*columns, console=console)


def _tenths(event: Event) -> int:
    return 10 * event.step // event.total


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    say(f"warning: {message}")
