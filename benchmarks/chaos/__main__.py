"""Kills, outages, full disks, damaged files and odd command lines: what is lost. Writes benchmarks/results/chaos.md.

    python -m benchmarks.chaos                                   everything, some hours on two cores
    python -m benchmarks.chaos kills-compare --count 30          a part; more of it later continues where it stopped
    python -m benchmarks.chaos outages --count 2                 two outages of each kind
    python -m benchmarks.chaos kills-train kills-compare kills-tune --count 1      the short form, of `make test-wild`

What was tried is noted in data/chaos.jsonl (`--notes FILE`), a line for each try, so every part can be stopped and
continued, and several parts can run at once, each in a process of its own. Tries that failed are repeated;
the folder of a try that failed is kept. Trainings are tiny. A command is a copy of this process, which has imported
everything, so that a kill costs a second or two; every tenth row of kills is of programs that begin with nothing. Waits
are short: a command waits one second for MLflow at its end, a request has a limit of one second, pauses are a twentieth
of a second. A full disk needs root, because it is a small file system of its own; a database that is restarted needs
PostgreSQL.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlflow.utils.requirements_utils import _init_modules_to_packages_map as look_at_packages

from .inputs import files, lines
from .kills import first_starts, kills
from .notes import RESULTS, Notes, report
from .outages import outages
from .places import COMMANDS, Place

PARTS: dict[str, tuple[Callable[[Notes, Place, int], None], int]] = {
    **{f"kills-{command}": (partial(kills, command), 67) for command in COMMANDS},
    "first-starts": (first_starts, 100),
    "outages": (outages, 5),
    "files": (files, 1000),
    "lines": (lines, 10_000),
}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--count", type=int)
    parser.add_argument("--notes", type=Path, default=Path("data", "chaos.jsonl"))
    parser.add_argument("--report", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    look_at_packages()  # type: ignore[no-untyped-call]  # what MLflow does once in a process
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    place = Place()
    try:
        for part in given.parts or PARTS:
            try_part, count = PARTS[part]
            try_part(Notes(given.notes), place, given.count or count)
    finally:
        place.close()
        text = report(Notes(given.notes))
        given.report.write_text(text)
        print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
