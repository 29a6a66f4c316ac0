"""The notes on what was tried, a line for each try, and the table that is made of them."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.toys.programs import Verdict

RESULTS = Path(__file__).parents[1] / "results" / "chaos.md"
SUMS = ("tried", "lost", "doubled", "running", "tracebacks")


@dataclass(frozen=True)
class Try:
    """A line of the notes: how often something was tried, and what went wrong."""

    part: str
    number: int
    tried: int
    lost: int = 0
    doubled: int = 0
    running: int = 0
    tracebacks: int = 0
    differs: int = 0
    note: str = ""
    commit: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.running or self.tracebacks or self.differs)


class Notes:
    """The tries so far, the newest of each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self._tries = {(one.part, one.number): one for one in (Try(**json.loads(line)) for line in lines)}
        version = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
        self._commit = subprocess.run(version, capture_output=True, text=True).stdout.strip()

    def of(self, part: str) -> list[Try]:
        """The tries of the part."""
        return [one for one in self._tries.values() if one.part == part]

    def parts(self) -> list[str]:
        """The parts of which something was tried."""
        return sorted({part for part, _ in self._tries})

    def todo(self, part: str, count: int) -> Iterator[int]:
        """The numbers of tries that are missing or went wrong, until `count` are good or have been tried now."""
        good = {one.number: one.tried for one in self.of(part) if one.is_good}
        for number in range(count):
            if sum(good.values()) >= count:
                return
            if number not in good:
                yield number
                one = self._tries.get((part, number))
                good[number] = one.tried if one else 1

    def add(self, part: str, number: int, tried: int, verdict: Verdict, note: str = "") -> Try:
        """Notes a try on the disk."""
        wrong = {"lost": verdict.lost, "doubled": verdict.doubled, "running": verdict.running}
        wrong |= {"tracebacks": verdict.tracebacks, "differs": len(verdict.differs)}
        one = Try(part, number, tried, **wrong, note="; ".join([note, *verdict.differs[:3]]), commit=self._commit)
        self._tries[part, number] = one
        with self.file.open("a") as file:
            file.write(f"{json.dumps(asdict(one))}\n")
        said = "good" if one.is_good else one
        print(f"{time.strftime('%H:%M:%S')} {part} {number}: {tried} tried, {said}", flush=True)
        for line in verdict.differs[:5]:
            print(f"    {line}", flush=True)
        return one


def report(notes: Notes) -> str:
    """The table of everything that was tried."""
    rows = []
    for part in notes.parts():
        tries = notes.of(part)
        sums = [str(sum(getattr(one, name) for one in tries)) for name in SUMS]
        equal = sum(not one.differs for one in tries)
        rows.append(f"| {part} | {' | '.join(sums)} | {equal} of {len(tries)} |")
    return "\n".join(
        [
            "# Kills, outages, damaged files, command lines",
            "",
            f"`python -m benchmarks.chaos`, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores.",
            "",
            "| what | tried | lost | doubled | left RUNNING | tracebacks | as expected |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
