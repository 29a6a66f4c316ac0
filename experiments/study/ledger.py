"""The ledger of a study: its trainings, who works on each of them, and how each ended.

It is kept in Optuna's tables, on SQLite or PostgreSQL, and used by any number of processes and machines. A *ticket* is
one training of the study. A ticket may take several attempts; each attempt is one trial of Optuna. Tickets are handed
out one after another under a lock. So their number is exact, whatever is killed, and a single worker gets the same
sequence however often it is interrupted.

The search is one Optuna study. The confirmation of its winner is a second one, so that samplers do not learn from it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..system.secrets import without_password
from .addresses import StudyError, file_of
from .notes import Notes, StudyNotes, ticket_of, write
from .race import Budget
from .sampling import pruner, sampler
from .settings import TuneSettings
from .storage import open_storage
from .storage_lock import lock_of

ATTEMPTS = 5  # lost workers after which a ticket is given up
CONFIRMATION = "confirmation of "  # the name of the second Optuna study begins with it

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Ticket:
    """One training of a study, with all attempts at it in their order."""

    number: int
    attempts: tuple[FrozenTrial, ...]

    @property
    def last(self) -> FrozenTrial:
        """The latest attempt."""
        return self.attempts[-1]

    @cached_property
    def notes(self) -> Notes:
        """The notes on the latest attempt."""
        return Notes.of(self.last)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do: trained, stopped early, failed because of its settings, or given up."""
        finished = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self.attempts)
        return finished or self.notes.error is not None or self.given_up

    @property
    def in_hand(self) -> bool:
        """Whether a worker works on it, or may begin to."""
        return self.last.state in (TrialState.RUNNING, TrialState.WAITING)

    @property
    def given_up(self) -> bool:
        """Whether too many workers were lost while they worked on it."""
        failed = [trial for trial in self.attempts if trial.state == TrialState.FAIL]
        return not self.in_hand and sum(not Notes.of(trial).interrupted for trial in failed) >= ATTEMPTS

    @property
    def completed(self) -> bool:
        """Whether one of the attempts completed."""
        return self.result.state == TrialState.COMPLETE

    @property
    def result(self) -> FrozenTrial:
        """The attempt that counts: the one that completed, else the latest."""
        return next((trial for trial in self.attempts if trial.state == TrialState.COMPLETE), self.last)


class Ledger:
    """A study that exists; `search` and `confirmation` are the Optuna studies of its two parts."""

    def __init__(self, name: str, address: str, heartbeat_s: float) -> None:
        """Opens the study. Call `proposing` before you take trials of its search.

        Raises:
            StudyError: there is no study with this name, or its storage does not answer.
        """
        self.name, self.address, self.heartbeat_s = name, address, heartbeat_s
        start = f"start it with `mlflow run . -e tune -P study={name}`"
        missing = f"study={name}: {without_password(address)} contains no study with this name; {start}"
        if address.startswith("sqlite") and not file_of(address).exists():
            raise StudyError(missing)
        self.storage = open_storage(address, heartbeat_s)
        try:
            self.search = optuna.load_study(study_name=name, storage=self.storage)
            self.confirmation = optuna.load_study(study_name=CONFIRMATION + name, storage=self.storage)
        except KeyError:
            raise StudyError(missing) from None

    @classmethod
    def create(cls, settings: TuneSettings, definition: Mapping[str, str]) -> "Ledger":
        """Opens the study, and creates it first if there is none with this name. Several processes may call it at once.

        Raises:
            StudyError: a study with this name exists, with another definition, or of another program.
        """
        storage = open_storage(settings.storage, settings.heartbeat)
        with lock_of(settings.storage):
            for name in (settings.study, CONFIRMATION + settings.study):
                study = optuna.create_study(
                    study_name=name, storage=storage, directions=settings.directions, load_if_exists=True
                )
                notes = StudyNotes.of(study)
                if notes.definition is None:
                    _refuse_foreign(study, name, settings.storage)
                    write(study, notes, definition=dict(definition))
        ledger = cls(settings.study, settings.storage, settings.heartbeat)
        there = ledger.notes.definition or {}
        for key, value in definition.items():
            if there.get(key) != value:
                raise StudyError(
                    f"study={ledger.name}: exists already with {key}={there.get(key)}, not {value}; "
                    f"give {key}={there.get(key)}, or another name with study=NAME"
                )
        return ledger

    def proposing(self, settings: TuneSettings) -> None:
        """Sets the sampler and the pruner of the search."""
        self.search.sampler = sampler(settings.sampler, settings.space, settings.seed)
        self.search.pruner = pruner(settings.pruner, settings.epochs)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """A context in which no other process hands out tickets."""
        return lock_of(self.address)

    @property
    def parts(self) -> tuple[optuna.Study, optuna.Study]:
        """The search and the confirmation."""
        return self.search, self.confirmation

    @property
    def notes(self) -> StudyNotes:
        """The notes on the study, as they are now in its storage."""
        return StudyNotes.of(self.search)

    def note(self, **changes: Any) -> None:
        """Stores these notes on the study."""
        write(self.search, StudyNotes(), **changes)

    # The trainings of the study

    @property
    def stages(self) -> list[Budget]:
        """The first stage, and one more for each time that more trainings were asked for."""
        return [Budget(**stage) for stage in self.notes.stages]

    def keep_stages(self, stages: Sequence[Budget]) -> None:
        """Stores the stages. Call it under the lock."""
        self.note(stages=[asdict(stage) for stage in stages])

    @property
    def planned(self) -> int:
        """The number of trainings of all stages."""
        return sum(stage.total for stage in self.stages)

    def tickets(self, study: optuna.Study) -> list[Ticket]:
        """The tickets that have been handed out, by number."""
        attempts: dict[int, list[FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False):
            if (number := ticket_of(trial)) is not None:
                attempts.setdefault(number, []).append(trial)
        return [Ticket(number, tuple(attempts[number])) for number in sorted(attempts)]

    def enqueue(self, study: optuna.Study, params: Mapping[str, Any] | None, notes: Notes) -> None:
        """Adds an attempt with these parameters; with None, the sampler proposes them. Call it under the lock."""
        # Parameters that are fixed, even none at all, keep it out of the samplers' own order.
        own = {} if params is None else {"fixed_params": dict(params)}
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=notes.attrs, system_attrs=own))

    def fail(self, trial: FrozenTrial | optuna.Trial) -> None:
        """Marks an attempt as failed; an attempt that has ended meanwhile stays as it is."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def is_mine(self, trial: optuna.Trial) -> bool:
        """Whether this worker still has the attempt. After a long sleep it may have been given to another worker."""
        return bool(self.storage.get_trial(trial._trial_id).state == TrialState.RUNNING)


def _refuse_foreign(study: optuna.Study, name: str, address: str) -> None:
    """Checks that a study without our notes is new, or was new when a process of ours was killed.

    Raises:
        StudyError: another program made it.
    """
    trials = len(study.get_trials(deepcopy=False))
    if trials or study.user_attrs:
        raise StudyError(
            f"study={name}: {without_password(address)} contains a study of another program with this name "
            f"({trials} trials); give another name with study=NAME"
        )
