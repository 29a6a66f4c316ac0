"""Studies worked off without training: each ticket's values come from a function of its holes and its seed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import optuna

from experiments.agenda import Agenda, Idle
from experiments.ledger import Ledger
from experiments.progress import Reporter
from experiments.space import Options
from experiments.study_worker import Attempt, Worker
from experiments.tune_settings import TuneSettings, stages_for
from tests.toys import toy_dataset

Scores = Callable[[Options, int], Sequence[float] | BaseException]
"""The values of a training with these holes and this seed, or why it fails; KeyboardInterrupt: it does not end."""


def toy_study(folder: Path, **given: object) -> tuple[Ledger, TuneSettings]:
    """A new study in a file of `folder`, which owes as many trainings as the settings say."""
    settings = TuneSettings.of(**{"storage": f"sqlite:///{folder}/studies.db", "trials": 15} | given)
    ledger = Ledger.create(settings.study, settings.storage, 60.0, settings.definition(), settings.directions)
    owe(ledger, settings)
    return ledger, settings


def owe(ledger: Ledger, settings: TuneSettings) -> None:
    """As many trainings in all as the settings say."""
    with ledger.locked():
        ledger.add_stage(*stages_for(settings.trials, ledger.planned, confirm=settings.confirm))


def work_off(ledger: Ledger, settings: TuneSettings, scores: Scores, most: int = 10**6) -> int:
    """Takes tickets until the study owes nothing, or `most` of them; how many were taken."""
    worker = Worker(ledger, settings, {}, toy_dataset(), "no run", Reporter())
    agenda = Agenda(ledger, settings)
    for done in range(most):
        study = agenda.next()
        if isinstance(study, Idle):
            return done
        work_on(worker, study, scores)
    return most


def work_on(worker: Worker, study: optuna.Study, scores: Scores) -> None:
    """One attempt, as a worker makes it; on the test images each is one point worse."""
    attempt = Attempt(worker, study, release=lambda: None)

    def train(trial: optuna.Trial) -> Sequence[float]:
        options, seed = attempt._decide(trial)
        found = scores(options, seed)
        trial.set_user_attr("run", f"{study.study_name}/{trial.number}")
        if isinstance(found, Exception):
            trial.set_user_attr("error", str(found))
            raise found
        if isinstance(found, BaseException):
            trial.set_user_attr("interrupted", True)
            raise found
        trial.set_user_attr("metrics", {"test/accuracy": found[0] - 0.01, "time/train_s": 1.5})
        return found

    study.optimize(train, n_trials=1, catch=(Exception, KeyboardInterrupt))
