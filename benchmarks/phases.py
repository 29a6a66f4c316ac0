"""The seconds of each phase of one run, from the start of the process, and the share of each. Linux only.

python -m benchmarks.phases                       the built-in scenes
python -m benchmarks.phases --dataset cifar10     and any other option of experiments.train

A checkpoint is written after every epoch, as with checkpoint=FILE. Existing checkpoints are not changed.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.runs.prepare import prepare
from experiments.runs.train import train, work
from experiments.settings.command_line import typed
from experiments.settings.train import TrainSettings
from experiments.system.allocator import keep_freed_memory
from experiments.system.progress import Printer, shown
from experiments.tracking.reading import FinishedRun
from experiments.tracking.store import prepare_store

PHASES = ("data", "train", "checkpoint", "evaluate", "cam", "faithfulness", "pictures", "tracking")


def main() -> None:
    """Trains once in a separate store and prints the table."""
    given = {"dataset": "scenes"} | typed(TrainSettings, sys.argv[1:])
    given |= {"data_dir": str(Path(str(given.get("data_dir", "data"))).resolve()), "resume": "none"}
    keep_freed_memory()  # as every entry point does
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        settings = TrainSettings.of(**given | {"checkpoint": str(Path(folder) / "checkpoint.pt")})
        prepare_store(Path(folder))
        start, wall, cpu = seconds_since_start(), time.perf_counter(), time.process_time()
        prepared = prepare(settings, reporter=Printer())
        with shown(work(prepared)) as reporter:
            run = train(prepared, reporter)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        os.chdir("/")
    report(run, start, start + wall, cpu)


def seconds_since_start() -> float:
    """Seconds since the start of this process, including imports."""
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def report(run: FinishedRun, start: float, wall: float, cpu: float) -> None:
    """Prints the table; `start` and `wall` are in seconds, and the total includes the start."""
    training = sum(seconds for _, seconds in run.metric_history("train/epoch_s"))
    table = Table(title=f"{run.name}: test accuracy {run.metrics['test/accuracy']:.2%}")
    for heading in ("phase", "wall s", "CPU s", "share of wall"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    table.add_row("start", f"{start:.2f}", "", f"{start / wall:.1%}")
    for phase in PHASES:
        if f"time/{phase}_s" not in run.metrics:  # no checkpoint was written
            continue
        seconds, own = run.metrics[f"time/{phase}_s"], run.metrics[f"time/{phase}_cpu_s"]
        table.add_row(phase, f"{seconds:.2f}", f"{own:.2f}", f"{seconds / wall:.1%}")
    table.add_row("of train: steps", f"{training:.2f}", "", f"{training / wall:.1%}")
    table.add_row("all", f"{wall:.2f}", f"{cpu:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
