"""Kills the very first start of the tracking store, at moments spread over all of it. Prints markdown.

python -m benchmarks.first_start               100 kills, about ten minutes on two cores
python -m benchmarks.first_start --kills 10    one minute

Every next start must find a store that it can use, and nothing of the killed one may be left.
"""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console
from rich.progress import track

from experiments.tracking.lifetime import open_run
from experiments.tracking.store import prepare_store

KEPT = {".mlflow.lock", "mlflow.db", "mlruns"}  # the store, and the folder of the outbox


@dataclass(frozen=True)
class Outcome:
    """What became of one killed start.

    Attributes:
        at_s: seconds after its beginning at which it was killed.
        killed: whether it was still at work then.
        works: whether the next start could write and read a run.
        left: names of files that the killed start left and the next one did not remove.
    """

    at_s: float
    killed: bool
    works: bool
    left: tuple[str, ...]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    outcomes = kill_first_starts(parser.parse_args().kills)
    killed = [outcome for outcome in outcomes if outcome.killed]
    print("| first starts | killed before their end | next start works | files left over |")
    print("|---|---|---|---|")
    works, left = sum(outcome.works for outcome in outcomes), sum(len(outcome.left) for outcome in outcomes)
    print(f"| {len(outcomes)} | {len(killed)} | {works} | {left} |")


def kill_first_starts(kills: int) -> list[Outcome]:
    """Kills so many first starts, each in a folder of its own, at equal distances over the length of one."""
    with tempfile.TemporaryDirectory(prefix="camparison-first-") as folder:
        began = time.monotonic()
        _end_of(_child(prepare_store, Path(folder)))
        length = time.monotonic() - began
    return [_kill(length * (number + 0.5) / kills) for number in track(range(kills), console=Console(stderr=True))]


def _kill(at_s: float) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="camparison-first-") as folder:
        process = _child(prepare_store, Path(folder))
        time.sleep(at_s)
        os.kill(process, signal.SIGKILL)
        killed = _end_of(process) == -signal.SIGKILL
        works = _end_of(_child(_use, Path(folder))) == 0
        left = {path.name for path in Path(folder).iterdir()} - KEPT
    return Outcome(at_s, killed, works, tuple(sorted(left)))


def _use() -> None:
    """Writes and reads a run."""
    prepare_store()
    with open_run(kind="train", name="first") as run:
        pass
    assert MlflowClient().get_run(run.id).info.status == "FINISHED"


def _child(function: Callable[[], object], folder: Path) -> int:
    """The id of a new process that calls the function in the folder, and ends with 0, or with 1 if it raises."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        function()
        code = 0
    finally:
        os._exit(code)


def _end_of(process: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    main()
