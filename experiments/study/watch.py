"""What the terminal shows while workers are at work: a line for every training that is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.progress import Reporter
from .ledger import Ledger
from .results import OPEN_STATES, Results, results, trials, written
from .settings import TuneSettings


class StageOnly(Reporter):
    """Passes on what is being done, but not its steps: the bar counts trainings."""

    def __init__(self, reporter: Reporter) -> None:
        self.stage = reporter.stage  # type: ignore[method-assign]


Row = Mapping[Any, Any]
"""A row of the table of trainings, by column."""


@dataclass
class Watch:
    """Prints a line for every training that was settled since the last look."""

    ledger: Ledger
    settings: TuneSettings
    reporter: Reporter
    _reported: set[tuple[bool, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._reported = set(self._settled())

    def _settled(self) -> dict[tuple[bool, int], Row]:
        rows = trials(self.ledger, self.settings.goals).to_dict("records")
        return {(row["part"] == "search", row["ticket"]): row for row in rows if row["state"] not in OPEN_STATES}

    def look(self) -> None:
        """Prints a line and moves the bar for each newly settled training."""
        settled = self._settled()
        if not settled.keys() - self._reported:
            return
        found, planned = results(self.ledger, self.settings), self.ledger.planned
        for key, row in settled.items():
            if key not in self._reported:
                self._reported.add(key)
                self.reporter.say(f"{len(self._reported)} of {planned}: {self._line(row, found)}")
                self.reporter.advance()

    def _line(self, row: Row, found: Results) -> str:
        start = f"{row['part']}, {row['name']} ({row['holes']}), seed {row['seed']}"
        if row["state"] != "complete":
            return f"{start}: {row['state']}{': ' if row['error'] else ''}{row['error']}"
        goal = self.settings.goals[0]
        line = f"{start}: {found.goal.name} {written(float(str(row[goal])), found.goal)}"
        line += ", trained before" if row["reused"] else ""
        best = found.best_of_search
        if row["part"] == "search" and best:
            line += f" (best so far {written(best.search_score, found.goal)}, {best.name})"
        return line
