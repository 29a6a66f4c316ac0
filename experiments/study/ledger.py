"""The ledger of a study: which trainings it consists of, who has them in hand, what became of them.

Kept in Optuna's tables, on SQLite or PostgreSQL, by any number of processes and machines. A *ticket* is one training
that the study owes; a ticket may take several attempts, of which each is a trial of Optuna's. Tickets are handed out
one after another under a lock, so that their number is exact whatever is killed, and one worker alone gets the same
sequence however often it is interrupted.

The search is an Optuna study; what confirms its winner is a second one, so that no sampler takes it for a proposal.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..system.processes import here, is_alive, started
from .addresses import StudyError, without_password
from .race import Budget
from .sampling import experimental, pruner, sampler
from .settings import TuneSettings
from .storage import lock_of, open_storage

ATTEMPTS = 5  # deaths of workers, or of machines, after which a ticket is given up
CONFIRMATION = "confirmation of "  # begins the name of the second Optuna study


optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Ticket:
    """One training that a study owes, with the attempts at it, the last one last."""

    number: int
    attempts: tuple[FrozenTrial, ...]

    @property
    def last(self) -> FrozenTrial:
        """The latest attempt."""
        return self.attempts[-1]

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to do: trained, stopped early, or failed by a fault of its own."""
        finished = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self.attempts)
        return finished or "error" in self.last.user_attrs or self.given_up

    @property
    def in_hand(self) -> bool:
        """Whether someone works on it, or may begin to."""
        return self.last.state in (TrialState.RUNNING, TrialState.WAITING)

    @property
    def given_up(self) -> bool:
        """Whether it has brought down too many workers."""
        deaths = [trial for trial in self.attempts if trial.state == TrialState.FAIL and not _interrupted(trial)]
        return not self.in_hand and len(deaths) >= ATTEMPTS

    @property
    def result(self) -> FrozenTrial:
        """The attempt that counts: the one that completed, else the latest."""
        return next((trial for trial in self.attempts if trial.state == TrialState.COMPLETE), self.last)


def _interrupted(trial: FrozenTrial) -> bool:
    return "interrupted" in trial.user_attrs


class Ledger:
    """A study that exists: `search` and `confirmation` are Optuna's studies of its two parts."""

    def __init__(self, name: str, address: str, heartbeat_s: float) -> None:
        """Opens the study; `proposing` sets what proposes and what stops its trials.

        Raises:
            StudyError: there is none of this name, or its storage does not answer.
        """
        self.name, self.address = name, address
        self._heartbeat_s = heartbeat_s
        self._without_beat: dict[int, float] = {}  # when a trial was first seen without a sign of life
        start = f"start it with `mlflow run . -e tune -P study={name}`"
        missing = f"study={name}: there is none in {without_password(address)}; {start}"
        if address.startswith("sqlite") and not Path(address.removeprefix("sqlite:///")).exists():
            raise StudyError(missing)
        self._storage = open_storage(address, heartbeat_s)
        try:
            self.search = optuna.load_study(study_name=name, storage=self._storage)
            self.confirmation = optuna.load_study(study_name=CONFIRMATION + name, storage=self._storage)
        except KeyError:
            raise StudyError(missing) from None

    @classmethod
    def create(
        cls,
        name: str,
        address: str,
        heartbeat_s: float,
        definition: Mapping[str, str],
        directions: Sequence[str],
    ) -> "Ledger":
        """Opens the study, made if there is none of its name; several processes may do so at once.

        Raises:
            StudyError: a study of this name is there that is defined otherwise.
        """
        storage = open_storage(address, heartbeat_s)
        with lock_of(address):
            for full in (name, CONFIRMATION + name):
                study = optuna.create_study(
                    study_name=full,
                    storage=storage,
                    directions=[StudyDirection[name.upper()] for name in directions],
                    load_if_exists=True,
                )
                if "definition" not in study.user_attrs:
                    study.set_user_attr("definition", dict(definition))
        ledger = cls(name, address, heartbeat_s)
        ledger.refuse_other(definition)
        return ledger

    def refuse_other(self, definition: Mapping[str, str]) -> None:
        """Returns where the study is defined so.

        Raises:
            StudyError: it is not, with the first difference.
        """
        there = self.search.user_attrs["definition"]
        for key, value in definition.items():
            if there.get(key) != value:
                raise StudyError(
                    f"study={self.name}: is there already with {key}={there.get(key)}, not {value}; "
                    "give what it has, or another study=NAME"
                )

    def proposing(self, settings: TuneSettings) -> None:
        """Sets what proposes the trials of the search, and what stops them early.

        Raises:
            StudyError: the sampler needs a package that is not installed.
        """
        self.search.sampler = sampler(settings.sampler, settings.space, settings.seed)
        self.search.pruner = pruner(settings.pruner, settings.epochs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else hands out tickets meanwhile."""
        with lock_of(self.address):
            yield

    @property
    def parent(self) -> str | None:
        """The MLflow run below which the study's trainings are: that of the latest `tune`, None before the first."""
        found: str | None = self.search.user_attrs.get("parent_run")
        return found

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.search.set_user_attr("parent_run", run_id)

    # What the study owes

    @property
    def stages(self) -> list[Budget]:
        """The first, and one for each time that more was asked for."""
        return [Budget(**stage) for stage in self.search.user_attrs.get("stages", [])]

    def _keep(self, stages: Sequence[Budget]) -> None:
        self.search.set_user_attr("stages", [asdict(stage) for stage in stages])

    @property
    def planned(self) -> int:
        """Trainings of all stages."""
        return sum(stage.total for stage in self.stages)

    def add_stage(self, stage: Budget) -> None:
        """More to do; under the lock."""
        self._keep([*self.stages, stage])

    def change_stage(self, number: int, stage: Budget) -> None:
        """The time is up: this much is left of the stage; under the lock."""
        stages = self.stages
        stages[number] = stage
        self._keep(stages)

    def tickets(self, study: optuna.Study) -> list[Ticket]:
        """The tickets that have been handed out, by number."""
        attempts: dict[int, list[FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False):
            if "ticket" in trial.user_attrs:
                attempts.setdefault(trial.user_attrs["ticket"], []).append(trial)
        return [Ticket(number, tuple(attempts[number])) for number in sorted(attempts)]

    def enqueue(
        self, study: optuna.Study, number: int, params: Mapping[str, Any] | None, attrs: Mapping[str, Any]
    ) -> None:
        """A new ticket, with these parameters, or None for the sampler to propose them; under the lock."""
        # Parameters that are fixed, even none at all, keep it out of the samplers' own order.
        own = {} if params is None else {"fixed_params": dict(params)}
        attrs = {**attrs, "ticket": number}
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=attrs, system_attrs=own))

    def enqueue_again(self, study: optuna.Study, ticket: Ticket) -> None:
        """Another attempt at a ticket whose worker is gone, with the same settings and the same run; under the lock."""
        dead = ticket.last
        # Half of a proposal is drawn anew as a whole: with some of it fixed the sampler's numbers would fall otherwise.
        drawn = dead.params if "options" in dead.user_attrs else {}
        fixed = dead.system_attrs.get("fixed_params")
        attrs = {key: value for key, value in dead.user_attrs.items() if key not in ("interrupted", "worker")}
        self.enqueue(study, ticket.number, None if fixed is None and not drawn else (fixed or {}) | drawn, attrs)

    # Workers that are gone

    def sweep(self) -> None:
        """Attempts of workers that are gone fail: those of this machine at once, others when silent for long.

        Under the lock. A worker signs an attempt before it leaves the lock: one that nobody has signed is of a worker
        that was killed on the way.
        """
        for study in (self.search, self.confirmation):
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if "worker" not in trial.user_attrs or _died_here(trial.user_attrs["worker"]):
                    self.fail(trial)
                else:
                    self._first_beat(trial)
            with experimental():
                optuna.storages.fail_stale_trials(study)

    def _first_beat(self, trial: FrozenTrial) -> None:
        """A worker that is killed before its first sign of life would count as alive for ever: one is given for it."""
        with self._storage.engine.connect() as connection:
            query = sa.text("SELECT 1 FROM trial_heartbeats WHERE trial_id = :trial")
            if connection.execute(query, {"trial": trial._trial_id}).first():
                return
        # Time for the worker's own first sign, or both would be inserted at once.
        if time.monotonic() - self._without_beat.setdefault(trial._trial_id, time.monotonic()) > self._heartbeat_s:
            self._storage.record_heartbeat(trial._trial_id)

    def fail(self, trial: FrozenTrial) -> None:
        """The attempt is over; one that has ended meanwhile stays as it is."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def is_mine(self, trial: optuna.Trial) -> bool:
        """Whether this worker still has the attempt: one that slept for long finds that it was given to another."""
        return bool(self._storage.get_trial(trial._trial_id).state == TrialState.RUNNING)


def worker_name() -> str:
    """This process among those of all machines: host, process and its start."""
    return json.dumps([here(), os.getpid(), started(os.getpid())])


def _died_here(worker: str) -> bool:
    host, pid, start = json.loads(worker)
    return bool(host == here()) and not is_alive(pid, start)
