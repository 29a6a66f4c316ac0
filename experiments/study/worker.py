"""A worker of a study: takes one ticket after another until none is left.

The same loop in one process, in several, as a task of Ray, of a SLURM array or of a Kubernetes job.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from torch import nn

from ..data.dataset import Dataset
from ..errors import CannotStart
from ..explaining import measuring
from ..runs.prepare import Prepared, prepare
from ..runs.train import finish, tags_of, train_into, work
from ..settings.train import TrainSettings
from ..system.progress import Reporter
from ..tracking.client import CANDIDATE, PART, STAGE, STUDY, TRAIN
from ..tracking.lifetime import GoesOnElsewhere, StoppedEarly, experiment_of, mark_confirmed, open_run
from ..tracking.locations import TrackingError
from ..tracking.reading import FinishedRun, completed_run, finished_run
from ..tracking.records import Metrics, Record
from ..tracking.signals import Terminated, raise_if_asked, terminated_by_signal
from ..training.loop import TrainingDiverged
from ..training.predictions import predict
from .addresses import StudyError
from .agenda import FINAL, Agenda, Idle, part_of, seed_of
from .ledger import Ledger, worker_name
from .settings import TuneSettings, common_options
from .space import Options, as_words, label
from .storage import LOST, lost, telling_of_loss

IDLE_S = 2.0  # between two looks at what others do


@dataclass
class Worker:
    """Trains the tickets of one study, with imports, data and caches kept warm between them.

    Attributes:
        settings: of the study, with the machine options of this worker.
        between: called after each attempt and while there is nothing to do.
    """

    ledger: Ledger
    settings: TuneSettings
    dataset: Dataset
    reporter: Reporter
    between: Callable[[], None] = lambda: None
    failures: int = field(default=0, init=False)
    """Trainings that failed one after another by no fault of their settings."""

    def __post_init__(self) -> None:
        self._agenda = Agenda(self.ledger, self.settings)
        self.ledger.proposing(self.settings)

    def work(self) -> None:
        """Returns when the study owes nothing more.

        Raises:
            TrackingError, StudyError: the tracking store or the study's storage fails; the ticket in hand waits for its
                next attempt.
            Terminated: the process is asked to end; likewise.
        """
        with terminated_by_signal():
            while True:
                with telling_of_loss(self.ledger.address):
                    found = self._take()
                    if found is Idle.DONE:
                        return
                    if found is Idle.WAIT:
                        time.sleep(IDLE_S)
                    self.between()
                raise_if_asked()

    def _take(self) -> Idle | None:
        """One attempt at the next ticket; or why there is none."""
        with contextlib.ExitStack() as lock:
            lock.enter_context(self.ledger.locked())
            self.ledger.sweep()
            study = self._agenda.next()
            if isinstance(study, Idle):
                return study
            attempt = self.attempt(study, lock.close)
            try:
                study.optimize(attempt, n_trials=1, catch=(Exception,))
            except (ValueError, AssertionError, UpdateFinishedTrialError):
                # What Optuna raises where the worker slept for so long that its ticket was given to another.
                if attempt.trial is None or self.ledger.is_mine(attempt.trial):
                    raise
        if attempt.fatal:
            raise attempt.fatal
        return None

    def attempt(self, study: optuna.Study, release: Callable[[], None]) -> "Attempt":
        """What does the next attempt; it calls `release` when the ledger's lock is no longer needed."""
        return Attempt(self, study, release)

    def settings_of(self, options: Options, seed: int) -> TrainSettings:
        """The settings of one training."""
        own = {"seed": seed, "threads": self.settings.threads}
        return TrainSettings.of(**{**common_options(self.settings), **as_words(options), **own})


FAILURES = 3  # one after another, after which a worker stops


class Attempt:
    """What Optuna calls with a trial: trains it and returns its values. The first thing it does is under the lock."""

    def __init__(self, worker: Worker, study: optuna.Study, release: Callable[[], None]) -> None:
        self._worker, self._study, self._release = worker, study, release
        self.fatal: BaseException | None = None
        self.trial: optuna.Trial | None = None

    def __call__(self, trial: optuna.Trial) -> Sequence[float]:
        self.trial = trial
        try:
            try:
                options, seed = self._decide(trial)
            finally:
                self._release()
            values = self.values(trial, options, seed)
            self._worker.failures = 0
            return values
        except StoppedEarly as error:
            raise optuna.TrialPruned(str(error)) from error
        except GoesOnElsewhere:
            raise
        except (KeyboardInterrupt, Terminated) as error:
            trial.set_user_attr("interrupted", True)
            raise KeyboardInterrupt from error
        except (TrackingError, StudyError) as error:
            # No fault of the ticket's: it waits, and the worker stops.
            trial.set_user_attr("interrupted", True)
            self.fatal = error
            raise
        except LOST as error:
            self.fatal = lost(self._worker.ledger.address, error)
            with contextlib.suppress(*LOST):  # it may be back
                trial.set_user_attr("interrupted", True)
            raise
        except Exception as error:
            self._record(trial, error)
            raise

    def _record(self, trial: optuna.Trial, error: Exception) -> None:
        """The reason of a failure; where all of this machine's trainings seem to fail, the ticket waits instead."""
        said = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:500]
        if not isinstance(error, TrainingDiverged | CannotStart | ValueError):  # faults of the settings
            self._worker.failures += 1
        if self._worker.failures < FAILURES:
            trial.set_user_attr("error", said)
            return
        trial.set_user_attr("interrupted", True)
        self.fatal = StudyError(
            f"{FAILURES} trainings failed one after another, the last with {said}; "
            "mend it, and the same command carries on"
        )

    def _decide(self, trial: optuna.Trial) -> tuple[Options, int]:
        """The options and the seed of this attempt, written into it; the same as those of an earlier attempt."""
        worker, attrs = self._worker, trial.user_attrs
        trial.set_user_attr("worker", worker_name())
        space, options = worker.settings.space, attrs.get("options")
        if options is None or ("candidate" not in attrs and space.params_of(options)):
            # Of baselines and second attempts too, or no sampler would know of them.
            proposed = space.propose(trial)
            options = options or proposed
        trial.set_user_attr("options", dict(options))
        seed = attrs["seed"] if "seed" in attrs else seed_of(worker.ledger, trial, options, worker.settings.seed)
        trial.set_user_attr("seed", seed)
        trial.set_user_attr("label", f"{_called(attrs)}: {label(options)}")
        trial.set_user_attr("attempt", attrs.get("attempt", 0) + 1)
        return options, seed

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> Sequence[float]:
        """The objectives of one training, from a finished run where there is one."""
        worker = self._worker
        settings = worker.settings_of(options, seed)
        prepared = prepare(settings, name=self._name(trial, options, seed), dataset=worker.dataset)
        found = completed_run(prepared.fingerprint, experiment_of(worker.ledger.parent))
        if found and all(metric_of(goal) in found.metrics for goal in worker.settings.goals):
            worker.reporter.advance(work(prepared))
            # One that its last attempt finished, just before its worker was killed, is its own.
            before = trial.user_attrs
            trial.set_user_attr("reused", before.get("reused", False) or found.id != before.get("run"))
        else:
            found = self._train(trial, prepared)
        trial.set_user_attr("run", found.id)
        if trial.user_attrs.get("round") == FINAL:
            mark_confirmed(found.id, worker.ledger.name, trial.user_attrs["stage"], trial.user_attrs["candidate"])
        trial.set_user_attr("metrics", _reported(found, worker.settings.goals))
        values = [found.metrics.get(metric_of(goal), math.nan) for goal in worker.settings.goals]
        for goal, value in zip(worker.settings.goals, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"{goal} has no value")
        return values

    def _name(self, trial: optuna.Trial, options: Options, seed: int) -> str:
        attrs = trial.user_attrs
        if "candidate" not in attrs:
            return f"{_called(attrs)}: {label(options)}, seed {seed}"
        return f"{part_of(attrs)}: {attrs['candidate']} ({label(options)}), seed {seed}"

    def _train(self, trial: optuna.Trial, prepared: Prepared) -> FinishedRun:
        worker, attrs = self._worker, trial.user_attrs
        tags = tags_of(prepared) | {
            STUDY: worker.ledger.name,
            "camparison.ticket": str(attrs["ticket"]),
            "camparison.attempt": str(attrs["attempt"]),
            **_place(attrs),
        }
        with open_run(
            kind=TRAIN,
            name=prepared.name,
            tags=tags,
            parent_run_id=worker.ledger.parent,
            again=attrs.get("run"),
            before_writing=lambda: self._check_mine(trial),
        ) as run:
            trial.set_user_attr("run", run.id)
            train_into(
                run,
                prepared,
                worker.reporter,
                lambda epoch, metrics: self._after_epoch(trial, epoch, metrics),
                self._further,
                keep_model=worker.settings.trial_models or "candidate" in attrs,
            )
            self._check_mine(trial)
        finish(prepared)
        return finished_run(run.id)

    def _after_epoch(self, trial: optuna.Trial, epoch: int, metrics: Mapping[str, float]) -> None:
        raise_if_asked()
        self._check_mine(trial)
        settings, goal = self._worker.settings, self._worker.settings.goals[0]
        finished = epoch == settings.epochs  # has cost everything
        if settings.pruner == "none" or finished or "candidate" in trial.user_attrs or goal not in metrics:
            return
        trial.report(metrics[goal], epoch)
        if trial.should_prune():
            raise StoppedEarly(f"stopped after epoch {epoch}: {goal} {metrics[goal]:.4f}")

    def _check_mine(self, trial: optuna.Trial) -> None:
        if not self._worker.ledger.is_mine(trial):
            raise GoesOnElsewhere(f"ticket {trial.user_attrs['ticket']} was given to another worker")

    def _further(self, prepared: Prepared, model: nn.Module) -> Iterable[Record]:
        """Where the network looks on validation images, for objectives that ask for it."""
        layers = [goal.split("/")[1] for goal in self._worker.settings.goals if goal.startswith("cam/")]
        if not layers:
            return
        val, device = prepared.dataset.splits["val"], prepared.machine.device
        predictions = predict(model, val.images, val.labels, device)
        looks = measuring.measure(model, layers, val, predictions, prepared.explaining.method, device)
        found = {f"val/{name}": value for name, value in measuring.summary(looks.table).items()}
        yield Metrics(found, prepared.settings.epochs)


def _called(attrs: Mapping[str, Any]) -> str:
    """The baseline's name, or the ticket's."""
    return str(attrs.get("baseline", f"trial {attrs['ticket']}"))


def _place(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Tags that tell the part of the study, and whose settings are confirmed."""
    part = {PART: part_of(attrs)}
    if "candidate" not in attrs:
        return part
    return part | {STAGE: str(attrs["stage"]), CANDIDATE: attrs["candidate"]}


def metric_of(goal: str) -> str:
    """The metric of a run that an objective reads; maps are measured on validation images for it."""
    return f"val/{goal}" if goal.startswith("cam/") else goal


def _reported(run: FinishedRun, goals: Sequence[str]) -> dict[str, float]:
    """What the study's table shows of a run."""
    names = dict.fromkeys([*map(metric_of, goals), "val/accuracy", "test/accuracy", "time/train_s"])
    return {name: run.metrics[name] for name in names if name in run.metrics}
