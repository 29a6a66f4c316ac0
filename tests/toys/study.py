"""Studies whose tickets cost nothing, and processes that work for them and can be killed at any statement."""

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa

from experiments.data.dataset import Dataset, Split
from experiments.study.agenda import Agenda, Idle
from experiments.study.ledger import Ledger
from experiments.study.settings import TuneSettings
from experiments.study.space import Options, label
from experiments.study.tune import commission
from experiments.study.worker import Attempt, Worker
from experiments.system.progress import Reporter

IMAGES = Split(np.zeros((2, 16, 16, 3), np.uint8), np.array([0, 1]), None)
DATASET = Dataset("toy", ("a", "b"), {"train": IMAGES, "val": IMAGES, "test": IMAGES}, "0" * 16, "made by hand")


Scores = Callable[[Options, int], Sequence[float] | BaseException]
"""The values of a training with these holes and this seed, or why it fails; KeyboardInterrupt: it does not end."""


def settings_of(storage: str, **given: object) -> TuneSettings:
    """A study of small images; its heart beats every second."""
    usual = {"study": "toy", "dataset": "scenes", "image_size": 16, "heartbeat": 1, "trials": 24}
    return TuneSettings.of(**usual | {"storage": storage} | given)


def sqlite(folder: Path) -> str:
    """The address of a study in the folder."""
    return f"sqlite:///{folder}/studies.db"


def opened(settings: TuneSettings) -> Ledger:
    """The study as `tune` opens it: made, and asked for its trials."""
    ledger = Ledger.create(settings, settings.definition())
    commission(ledger, settings)
    return ledger


def score(options: Options, seed: int) -> float:
    """A score that depends on the holes, and a little on the seed."""
    if not options["cutout"]:
        return 0.5 + 0.001 * seed
    side = int(str(options["cutout_size"]))
    return 0.9 - 0.01 * abs(side - 6) - 0.02 * options["cutout_holes"] * options["cutout_p"] + 0.0001 * (seed % 7)


class ToyAttempt(Attempt):
    """Scores the options instead of training them."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        trial.set_user_attr("metrics", {})
        return [score(options, seed)]


class ToyWorker(Worker):
    """A worker whose tickets cost nothing."""

    def attempt(self, study: optuna.Study, release: Callable[[], None]) -> Attempt:
        return ToyAttempt(self, study, release)


def worker(ledger: Ledger, settings: TuneSettings, kind: type[Worker] = ToyWorker) -> Worker:
    """Ready to work for the study."""
    return kind(ledger, settings, DATASET, Reporter())


def work(settings: TuneSettings, kind: type[Worker] = ToyWorker) -> None:
    """Works the study off, like `tune`."""
    worker(opened(settings), settings, kind).work()


def toy_study(folder: Path, **given: object) -> tuple[Ledger, TuneSettings]:
    """A new study of images of the usual size in a file of `folder`, with the trainings that the settings ask for."""
    settings = TuneSettings.of(**{"storage": sqlite(folder), "trials": 15} | given)
    return opened(settings), settings


def work_off(ledger: Ledger, settings: TuneSettings, scores: Scores, most: int = 10**6) -> int:
    """Takes tickets until nothing is left to do, or `most` of them; returns how many were taken."""
    agenda, hand = Agenda(ledger, settings), worker(ledger, settings)
    for done in range(most):
        study = agenda.next()
        if isinstance(study, Idle):
            return done
        study.optimize(ScoredAttempt(hand, study, scores), n_trials=1, catch=(Exception, KeyboardInterrupt))
    return most


class ScoredAttempt(Attempt):
    """Takes its values from `scores`; the accuracy on the test images is a point below the first of them."""

    def __init__(self, worker: Worker, study: optuna.Study, scores: Scores) -> None:
        super().__init__(worker, study, release=lambda: None)
        self._scores = scores

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> Sequence[float]:
        found = self._scores(options, seed)
        trial.set_user_attr("run", f"{self._study.study_name}/{trial.number}")
        if isinstance(found, BaseException):
            raise found
        trial.set_user_attr("metrics", {"test/accuracy": found[0] - 0.01, "time/train_s": 1.5})
        return found


def child(function: Callable[[], Any]) -> int:
    """The id of a new process that calls the function and ends with 0, or with 1 where it raises."""
    pid = os.fork()
    if pid:
        return pid
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # without what pytest would do at its end


def end_of(pid: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(statement: int, settings: TuneSettings) -> Callable[[], None]:
    """Works the study off, but is killed by SIGKILL when that many statements and commits have begun."""

    def function() -> None:
        ledger = opened(settings)
        left = statement

        def count(*ignored: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(ledger.storage.engine, "before_cursor_execute", count)
        sa.event.listen(ledger.storage.engine, "commit", count)
        worker(ledger, settings).work()

    return function


def sequence(ledger: Ledger) -> list[tuple[int, str, int, list[float] | None]]:
    """Ticket, holes, seed and values of both parts of the study, in order."""
    return [
        (
            ticket.number,
            label(ticket.result.user_attrs["options"]),
            ticket.result.user_attrs["seed"],
            ticket.result.values,
        )
        for study in (ledger.search, ledger.confirmation)
        for ticket in ledger.tickets(study)
    ]
