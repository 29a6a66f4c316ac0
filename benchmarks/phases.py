"""Seconds of each phase of one run, and what share of it MLflow takes.

python -m benchmarks.phases                       the built-in scenes
python -m benchmarks.phases --dataset cifar10     and any other option of experiments.train
"""

import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments import tracking, variant
from experiments.config import TrainSettings
from experiments.progress import Printer, shown

PHASES = ("data", "train", "evaluate", "cam", "faithfulness", "pictures", "tracking")


def main() -> None:
    """Trains once in a store of its own and prints the table."""
    given = {"dataset": "scenes"} | TrainSettings.given()
    settings = TrainSettings.of(**given | {"data_dir": str(Path(str(given.get("data_dir", "data"))).resolve())})
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tracking.prepare_store(Path(folder))
        wall, cpu = time.perf_counter(), time.process_time()
        prepared = variant.prepare(settings, given, reporter=Printer())
        with shown(variant.work(prepared)) as reporter:
            run = variant.train(prepared, reporter)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        os.chdir("/")
    report(run, wall, cpu)


def report(run: tracking.FinishedRun, wall: float, cpu: float) -> None:
    """The table on the terminal."""
    table = Table(title=f"{run.name}: test accuracy {run.metrics['test/accuracy']:.2%}")
    for heading in ("phase", "wall s", "CPU s", "share of wall"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in PHASES:
        seconds, own = run.metrics[f"time/{phase}_s"], run.metrics[f"time/{phase}_cpu_s"]
        table.add_row(phase, f"{seconds:.2f}", f"{own:.2f}", f"{seconds / wall:.1%}")
    table.add_row("all", f"{wall:.2f}", f"{cpu:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
