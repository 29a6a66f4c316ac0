"""A worker of a study: it takes one ticket after another until none is left, and trains it.

The loop is the same in one process, in several processes, on Ray, in a SLURM array and in a Kubernetes job.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from torch import nn

from ..data.dataset import Dataset
from ..errors import CannotStart, memory_problem
from ..explaining import measuring
from ..runs.contents import NEAR_CHANCE, damage
from ..runs.prepare import Prepared, prepare
from ..runs.train import finish, tags_of, train_into, work
from ..settings.train import TrainSettings
from ..system.progress import Reporter
from ..tracking.client import CANDIDATE, PART, STAGE, STUDY, TRAIN
from ..tracking.lifetime import GoesOnElsewhere, RunDeleted, StoppedEarly, experiment_of, mark_confirmed, open_run
from ..tracking.locations import TrackingError
from ..tracking.reading import FinishedRun, completed_run, finished_run
from ..tracking.records import Metrics, Record
from ..tracking.signals import Terminated, raise_if_asked, terminated_by_signal
from ..training.loop import TrainingDiverged
from ..training.predictions import predict
from .addresses import StorageLost, StudyError, StudyStopped
from .agenda import Agenda, Idle, seed_of
from .ledger import Ledger
from .lost_workers import LostWorkers, worker_name
from .notes import FINAL, Notes, write
from .settings import TuneSettings, common_options
from .space import Options, as_words, label
from .storage import LOST, lost, telling_of_loss

IDLE_S = 2.0  # between two looks at the ledger while other workers are at work
FAILURES = 3  # trainings that fail one after another, after which a worker stops
LOSSES = 10  # times that the storage breaks off while no ticket is taken, after which a worker stops


@dataclass
class Worker:
    """Trains the tickets of one study in one process; imports, data and caches stay loaded between them.

    Attributes:
        settings: of the study, with the machine options of this worker.
        between: is called after each attempt, and repeatedly while there is nothing to do.
    """

    ledger: Ledger
    settings: TuneSettings
    dataset: Dataset
    reporter: Reporter
    between: Callable[[], None] = lambda: None
    failures: int = field(default=0, init=False)
    """Trainings that failed one after another, for reasons other than their settings."""

    def __post_init__(self) -> None:
        self._agenda = Agenda(self.ledger, self.settings)
        self._lost_workers = LostWorkers(self.ledger)
        self._attempt: Attempt | None = None
        self._losses = 0
        self.ledger.proposing(self.settings)

    def work(self) -> None:
        """Trains tickets until nothing is left to do.

        Raises:
            TrackingError, StudyStopped: the tracking store or the storage of the study fails for long; the current
                ticket waits for its next attempt.
            Terminated: the process is asked to end; the current ticket waits for its next attempt.
        """
        with terminated_by_signal():
            while True:
                try:
                    with telling_of_loss(self.ledger.address):
                        found = self._take()
                        if found is Idle.DONE:
                            return
                        if found is Idle.WAIT:
                            time.sleep(IDLE_S)
                        self.between()
                except StorageLost as error:
                    self._go_on_after(error)
                raise_if_asked()

    def _go_on_after(self, error: StorageLost) -> None:
        """Waits until the storage answers again. The ticket that this worker had in hand waits for its next attempt.

        Raises:
            StorageLost: the storage is a file, stays away, or breaks off again and again.
        """
        self._losses += 1
        if self.ledger.address.startswith("sqlite") or self._losses > LOSSES:
            raise error
        trial = self._attempt.trial if self._attempt else None
        with telling_of_loss(self.ledger.address), self.ledger.locked():
            if trial is not None and self.ledger.is_mine(trial):
                _note(trial, interrupted=True)
                self.ledger.fail(trial)

    def _take(self) -> Idle | None:
        """Makes one attempt at the next ticket; returns why, if there is no ticket to take."""
        with contextlib.ExitStack() as lock:
            lock.enter_context(self.ledger.locked())
            self._lost_workers.sweep()
            study = self._agenda.next()
            if isinstance(study, Idle):
                return study
            attempt = self._attempt = self.attempt(study, lock.close)
            try:
                study.optimize(attempt, n_trials=1, catch=(Exception,))
            except (ValueError, AssertionError, UpdateFinishedTrialError):
                # Optuna raises these if the worker slept for so long that its ticket was given to another.
                if attempt.trial is None or self.ledger.is_mine(attempt.trial):
                    raise
        if attempt.fatal:
            raise attempt.fatal
        self._losses = 0
        return None

    def attempt(self, study: optuna.Study, release: Callable[[], None]) -> "Attempt":
        """The next attempt; it calls `release` when it no longer needs the lock of the ledger."""
        return Attempt(self, study, release)


class Attempt:
    """The objective that Optuna calls with a trial: trains the ticket and returns the values of the objectives.

    Options and seed are decided under the lock of the ledger; then the lock is released.
    """

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
            _note(trial, interrupted=True)
            raise KeyboardInterrupt from error
        except RunDeleted as error:
            _note(trial, error=str(error))  # somebody did not want it; the study goes on without it
            raise
        except (TrackingError, StudyError, StudyStopped) as error:
            # The training is not at fault: its ticket waits, and the worker stops.
            _note(trial, interrupted=True)
            self.fatal = error
            raise
        except LOST as error:
            self.fatal = lost(self._worker.ledger.address, error)
            with contextlib.suppress(*LOST):  # the database may answer again
                _note(trial, interrupted=True)
            raise
        except Exception as error:
            self._record(trial, error)
            raise

    def _record(self, trial: optuna.Trial, error: Exception) -> None:
        """Notes why a training failed; if all trainings of this machine seem to fail, the ticket waits instead."""
        said = memory_problem(error) or f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:500]
        if not isinstance(error, TrainingDiverged | CannotStart | ValueError):  # the settings are at fault
            self._worker.failures += 1
        if self._worker.failures < FAILURES:
            _note(trial, error=said)
            return
        _note(trial, interrupted=True)
        self.fatal = StudyStopped(
            f"{FAILURES} trainings failed one after another, the last with {said}; remove the cause"
        )

    def _decide(self, trial: optuna.Trial) -> tuple[Options, int]:
        """Decides and notes the options and the seed of this attempt: those of an earlier attempt, if there was one."""
        worker = self._worker
        notes = _note(trial, worker=worker_name())
        space, options = worker.settings.space, notes.options
        if options is None or (notes.candidate is None and space.params_of(options)):
            # Baselines and second attempts are proposed too, or no sampler would learn from them.
            proposed = space.propose(trial)
            options = options or proposed
        seed = notes.seed
        if seed is None:
            seed = seed_of(worker.ledger, notes, options, worker.settings.seed)
        text = f"{notes.name}: {label(options)}"
        write(trial, notes, options=dict(options), seed=seed, label=text, attempt=notes.attempt + 1)
        return options, seed

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> Sequence[float]:
        """The values of the objectives after one training, or from a finished run of the same training.

        Raises:
            ValueError: an objective has no finite value.
        """
        worker, goals = self._worker, self._worker.settings.goals
        notes = Notes.of(trial)
        name = f"{notes.label}, seed {seed}"
        if notes.candidate is not None:
            name = f"{notes.part}: {notes.candidate} ({label(options)}), seed {seed}"
        prepared = prepare(settings_of(worker.settings, options, seed), name=name, dataset=worker.dataset)
        found = completed_run(prepared.fingerprint, experiment_of(worker.ledger.notes.parent_run))
        if found and all(metric_of(goal) in found.metrics for goal in goals) and self._is_whole(found, notes):
            worker.reporter.advance(work(prepared))
            # The run may be that of the last attempt, whose worker was killed just after it had finished the run.
            reused = notes.reused or found.id != notes.run
        else:
            found, reused = self._train(trial, notes, prepared), notes.reused
        write(trial, notes, run=found.id, reused=reused)
        if notes.round == FINAL:
            assert notes.stage is not None
            assert notes.candidate is not None
            mark_confirmed(found.id, worker.ledger.name, notes.stage, notes.candidate)
        shown = dict.fromkeys([*map(metric_of, goals), "val/accuracy", "test/accuracy", "time/train_s"])
        write(trial, notes, metrics={name: found.metrics[name] for name in shown if name in found.metrics})
        if NEAR_CHANCE in found.tags:
            write(trial, notes, near_chance=True)
        values = [found.metrics.get(metric_of(goal), math.nan) for goal in goals]
        for goal, value in zip(goals, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"{goal} has no value")
        return values

    def _is_whole(self, found: FinishedRun, notes: Notes) -> bool:
        """Whether the files of a finished run can be read, where the study needs them."""
        problem = damage(found, self._worker.dataset.classes) if notes.candidate is not None else ""
        if problem:
            self._worker.reporter.say(f"{problem}; trained again")
        return not problem

    def _train(self, trial: optuna.Trial, notes: Notes, prepared: Prepared) -> FinishedRun:
        worker = self._worker
        tags = tags_of(prepared) | {
            STUDY: worker.ledger.name,
            "camparison.ticket": str(notes.ticket),
            "camparison.attempt": str(notes.attempt),
            PART: notes.part,
        }
        if notes.candidate is not None:
            tags |= {STAGE: str(notes.stage), CANDIDATE: notes.candidate}
        with open_run(
            kind=TRAIN,
            name=prepared.name,
            tags=tags,
            parent_run_id=worker.ledger.notes.parent_run,
            again=notes.run,
            before_writing=lambda: self._check_mine(trial),
        ) as run:
            write(trial, notes, run=run.id)
            train_into(
                run,
                prepared,
                worker.reporter,
                lambda epoch, metrics: self._after_epoch(trial, epoch, metrics),
                self._further,
                keep_model=worker.settings.trial_models or notes.candidate is not None,
            )
            self._check_mine(trial)
        finish(prepared)
        return finished_run(run.id)

    def _after_epoch(self, trial: optuna.Trial, epoch: int, metrics: Mapping[str, float]) -> None:
        raise_if_asked()
        self._check_mine(trial)
        settings, goal = self._worker.settings, self._worker.settings.goals[0]
        if settings.pruner == "none" or goal not in metrics or Notes.of(trial).candidate is not None:
            return
        if epoch == settings.epochs:  # nothing can be saved any more
            return
        trial.report(metrics[goal], epoch)
        if trial.should_prune():
            raise StoppedEarly(f"stopped after epoch {epoch}: {goal} {metrics[goal]:.4f}")

    def _check_mine(self, trial: optuna.Trial) -> None:
        if not self._worker.ledger.is_mine(trial):
            raise GoesOnElsewhere(f"{Notes.of(trial).label} was given to another worker")

    def _further(self, prepared: Prepared, model: nn.Module) -> Iterable[Record]:
        """Measures of the maps of validation images, for the objectives that need them."""
        layers = [goal.split("/")[1] for goal in self._worker.settings.goals if goal.startswith("cam/")]
        if not layers:
            return
        val, device = prepared.dataset.splits["val"], prepared.machine.device
        predictions = predict(model, val.images, val.labels, device)
        looks = measuring.measure(model, layers, val, predictions, prepared.explaining.method, device)
        found = {f"val/{name}": value for name, value in measuring.summary(looks.table).items()}
        yield Metrics(found, prepared.settings.epochs)


def settings_of(settings: TuneSettings, options: Options, seed: int) -> TrainSettings:
    """The settings of one training of the study."""
    own = {"seed": seed, "threads": settings.threads}
    return TrainSettings.of(**{**common_options(settings), **as_words(options), **own})


def _note(trial: optuna.Trial, **changes: object) -> Notes:
    return write(trial, Notes.of(trial), **changes)


def metric_of(goal: str) -> str:
    """The metric of a run that an objective reads: `cam/...` is measured on validation images, as `val/cam/...`."""
    return f"val/{goal}" if goal.startswith("cam/") else goal
