"""A progress bar with the time left, or plain lines if there is no terminal."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..errors import visible

LINE_EVERY_S = 10.0  # without a terminal, at most one line in this time
MOST_CELLS = 1000  # of a terminal in each direction
NARROW = 70  # columns; a terminal with fewer shows only what is done and the time left


def console() -> Console:
    """Prints text as it is: names may look like colours or emoji codes. Long lines are broken by the terminal."""
    size = shutil.get_terminal_size()  # unlike rich, it takes any value of these variables
    width = min(size.columns, MOST_CELLS) if "COLUMNS" in os.environ else None
    height = min(size.lines, MOST_CELLS) if "LINES" in os.environ else None
    return Console(width=width, height=height, soft_wrap=True, markup=False, emoji=False, highlight=False)


class Reporter:
    """Receives the progress of long work. This class prints nothing."""

    def advance(self, steps: int = 1) -> None:
        """Counts `steps` more of the announced total as done."""

    def stage(self, text: str) -> None:
        """Names the current work."""

    def say(self, text: str) -> None:
        """Prints a line that stays on the screen; it may contain any name of a file."""

    def bar(self, total: int) -> AbstractContextManager["Reporter"]:
        """A reporter for work of `total` steps, before there is another bar."""
        return nullcontext(self)


class Printer(Reporter):
    """Prints each line; used before there is a bar."""

    def say(self, text: str) -> None:
        print(visible(text), flush=True)

    def bar(self, total: int) -> AbstractContextManager[Reporter]:
        return shown(total)


class _Bar(Reporter):
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def say(self, text: str) -> None:
        self._progress.console.print(visible(text), soft_wrap=True)


class _Lines(Printer):
    def __init__(self, total: int) -> None:
        self._total, self._done, self._stage = total, 0, ""
        self._started = self._last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S and self._done < self._total:
            self._last = now
            left = (now - self._started) / self._done * max(self._total - self._done, 0)
            stage = f"{self._stage}: " if self._stage else ""
            self.say(f"{stage}{self._done / self._total:.0%}, about {left:.0f} s left")

    def stage(self, text: str) -> None:
        self._stage = text


@contextmanager
def shown(total: int) -> Iterator[Reporter]:
    """A reporter for work of `total` steps: a bar on a terminal that can move its cursor, else a line now and then."""
    screen = console()
    if not (sys.stdout.isatty() and screen.is_interactive):
        yield _Lines(total)
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), MofNCompleteColumn()]
    if screen.width >= NARROW:
        columns = [columns[0], BarColumn(), columns[1], TimeElapsedColumn(), TextColumn("left:")]
    # The estimate uses the last ten minutes, so that a machine that is busy for a moment hardly changes it.
    with Progress(*columns, TimeRemainingColumn(), console=screen, speed_estimate_period=600) as progress:
        yield _Bar(progress, total)
