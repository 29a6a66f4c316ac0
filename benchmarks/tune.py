"""The time of a study besides its trainings, the gain of a second worker, and whether a long study becomes slower.

python -m benchmarks.tune overhead     start, storage, logging and pictures of a trial, as a share of a minute
python -m benchmarks.tune workers      trials per hour of two workers with one thread each, compared with one worker
python -m benchmarks.tune ledger       1,000 trials that train nothing: the last hundred compared with the first
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from experiments.runs.prepare import load_dataset
from experiments.settings.command_line import words_of
from experiments.study.ledger import Ledger
from experiments.study.race import Budget
from experiments.study.settings import TuneSettings
from experiments.study.space import Options
from experiments.study.worker import Attempt, Worker
from experiments.system.progress import Reporter
from experiments.tracking.reading import finished_run
from experiments.tracking.store import prepare_store

SMALL = {"dataset": "scenes", "threads": "1", "confirm": "false", "sampler": "random", "gallery_size": "10"}
"""Small trainings on the built-in scenes, without repeated baselines."""
NETWORK = ("train", "evaluate", "cam", "faithfulness")
"""Phases that compute with the network; the rest of a trial is the cost of the study."""
MINUTE_S = 60.0
AT_MOST_OF_A_MINUTE, AT_LEAST_FOR_TWO, AT_MOST_SLOWER = 0.05, 1.7, 1.5
TRIVIAL, BLOCK = 1000, 100


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one benchmark in a separate store and prints its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "workers", "ledger"))
    parser.add_argument("--data_dir", default="data", help="folder for data sets (default: %(default)s)")
    parser.add_argument(
        "--train_images", default="4000", help="training images of each training (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, default=6, help="trials of each study (default: %(default)s)")
    given = parser.parse_args(argv)
    data_dir = str(Path(given.data_dir).resolve())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            if given.what == "overhead":
                overhead(data_dir, given.train_images, given.trials)
            elif given.what == "workers":
                two_workers(data_dir, given.train_images, given.trials)
            else:
                long_study(data_dir)
        finally:
            os.chdir("/")


def study_of(
    name: str, data_dir: str, train_images: str, trials: int, workers: int, seed: int = 0
) -> list[FrozenTrial]:
    """Runs a study in this folder with the entry point and returns its trials.

    Use a new seed for each study: with the same seed it would find all trainings finished and do none.
    """
    options = SMALL | {"study": name, "data_dir": data_dir, "train_images": train_images, "seed": str(seed)}
    options |= {"trials": str(trials), "workers": str(workers)}
    subprocess.run(
        [sys.executable, "-m", "experiments.tune", *words_of(options)], check=True, stdout=subprocess.DEVNULL
    )
    return optuna.load_study(study_name=name, storage="sqlite:///studies.db").trials


def overhead(data_dir: str, train_images: str, trials: int) -> None:
    """Seconds of each trial without training and evaluation of its network; the first trial is left out as warm-up."""
    found = study_of("overhead", data_dir, train_images, trials, workers=1)
    prepare_store(Path.cwd())
    table = Table(title=f"{trials - 1} trials after the first, scenes, {train_images} images, one thread")
    for heading in ("trial", "from end to end s", "network s", "rest s", "rest of a minute"):
        table.add_column(heading, justify="right")
    rests = []
    for before, trial in itertools.pairwise(found):
        assert before.datetime_complete
        assert trial.datetime_complete
        whole = (trial.datetime_complete - before.datetime_complete).total_seconds()
        metrics = finished_run(trial.user_attrs["run"]).metrics
        network = sum(metrics[f"time/{phase}_s"] for phase in NETWORK)
        rests.append(whole - network)
        cells = (f"{whole:.2f}", f"{network:.2f}", f"{rests[-1]:.2f}", f"{rests[-1] / MINUTE_S:.1%}")
        table.add_row(str(trial.number), *cells)
    console = Console()
    console.print(table)
    share = statistics.median(rests) / MINUTE_S
    console.print(
        f"median {share:.1%} of a minute; at most {AT_MOST_OF_A_MINUTE:.0%}: {_met(share <= AT_MOST_OF_A_MINUTE)}"
    )


def two_workers(data_dir: str, train_images: str, trials: int) -> None:
    """Trials per hour, counted after the first trial of each worker, when imports and data are loaded.

    Runs one worker, two workers and one worker again: if the speed of the machine changes, the first and the last
    differ.
    """
    table = Table(title=f"scenes, {train_images} images, one thread a worker")
    for heading in ("workers", "trials counted", "trials per hour"):
        table.add_column(heading, justify="right")
    rates = []
    for turn, workers in enumerate((1, 2, 1)):
        found = study_of(f"workers{turn}", data_dir, train_images, trials * workers, workers, seed=1000 * turn)
        counted, rate = rate_of(found, workers)
        rates.append(rate)
        table.add_row(str(workers), str(counted), f"{rate:.1f}")
    console = Console()
    console.print(table)
    ratio = rates[1] / statistics.mean((rates[0], rates[2]))
    console.print(f"two against one: {ratio:.2f}; at least {AT_LEAST_FOR_TWO}: {_met(ratio >= AT_LEAST_FOR_TWO)}")


def rate_of(trials: Sequence[FrozenTrial], workers: int) -> tuple[int, float]:
    """The number of counted trials, and trials per hour; the first trial of each worker does not count."""
    ends: dict[str, list[float]] = {}
    for trial in trials:
        assert trial.datetime_complete
        ends.setdefault(trial.user_attrs["worker"], []).append(trial.datetime_complete.timestamp())
    if len(ends) != workers or min(map(len, ends.values())) < 2:
        counts = ", ".join(str(len(own)) for own in ends.values())
        raise SystemExit(f"each of {workers} workers needs two trials; they had {counts}: give more --trials")
    rates = [(len(own) - 1) / (max(own) - min(own)) for own in ends.values()]
    return sum(len(own) - 1 for own in ends.values()), 3600 * sum(rates)


def long_study(data_dir: str) -> None:
    """Seconds for each trial of a long study that trains nothing, by sampler."""
    table = Table(title=f"{TRIVIAL} trials that train nothing, SQLite")
    for heading in ("sampler", f"first {BLOCK}: ms", f"last {BLOCK}: ms", "last / first"):
        table.add_column(heading, justify="left" if heading == "sampler" else "right")
    ratios = []
    for name in ("random", "tpe"):
        times = trivial_study(name, data_dir)
        first, last = (statistics.median(block) * 1000 for block in (times[:BLOCK], times[-BLOCK:]))
        ratios.append(last / first)
        table.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{ratios[-1]:.2f}")
    console = Console()
    console.print(table)
    console.print(f"at most {AT_MOST_SLOWER} with random: {_met(ratios[0] <= AT_MOST_SLOWER)}")


class Trivial(Attempt):
    """Trains nothing; the score is computed from the settings."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        """A score from which a sampler can learn."""
        return [float(options.get("cutout_p", 0.5))]


class TrivialWorker(Worker):
    """A worker whose trainings take no time."""

    def attempt(self, study: optuna.Study, release: Callable[[], None]) -> Attempt:
        """An attempt that takes no time."""
        return Trivial(self, study, release)


def trivial_study(sampler: str, data_dir: str) -> list[float]:
    """Seconds of each trial."""
    given = SMALL | {"study": f"trivial-{sampler}", "sampler": sampler, "trials": str(TRIVIAL), "data_dir": data_dir}
    settings = TuneSettings.of(**given)
    dataset = load_dataset(settings, Reporter())
    ledger = Ledger.create(settings, settings.definition())
    ledger.keep_stages([Budget(TRIVIAL, 0, 0)])
    ends = [time.perf_counter()]
    TrivialWorker(ledger, settings, dataset, Reporter(), between=lambda: ends.append(time.perf_counter())).work()
    return [end - start for start, end in itertools.pairwise(ends)]


def _met(reached: bool) -> str:
    return "reached" if reached else "not reached"


if __name__ == "__main__":
    main()
