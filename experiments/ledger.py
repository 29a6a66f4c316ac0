"""The ledger of a study: which trainings it consists of, who has them in hand, what became of them.

Kept in Optuna's tables, on SQLite or PostgreSQL, by any number of processes and machines. A *ticket* is one training
that the study owes; a ticket may take several attempts, of which each is a trial of Optuna's. Tickets are handed out
one after another under a lock, so that their number is exact whatever is killed, and one worker alone gets the same
sequence however often it is interrupted.

The search is an Optuna study; what confirms its winner is a second one, so that no sampler takes it for a proposal.
"""

import contextlib
import copy
import hashlib
import importlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
import sqlalchemy as sa
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from experiments import processes
from experiments.race import Budget
from experiments.space import P_STEP, PROBABILITY, Space
from experiments.tune_settings import StudyError, TuneSettings, passwords, without_password

SILENT = 5  # heartbeats missed by a worker that counts as dead
ATTEMPTS = 5  # deaths of workers, or of machines, after which a ticket is given up
CONNECT_S = 5  # to wait for a database that does not answer
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


class PerTicket(optuna.samplers.BaseSampler):
    """A sampler made afresh for each ticket from the study's seed and the ticket's number.

    One that is made once repeats its first proposals after every restart. With `together` it is given those parameters
    to propose together, and of the trials those that have them all: for samplers that know no conditions.
    """

    def __init__(
        self,
        make: Callable[[int], optuna.samplers.BaseSampler],
        seed: int,
        together: Mapping[str, BaseDistribution] | None = None,
    ) -> None:
        self._make, self._seed, self._together = make, seed, together
        self._inner = self._made(seed)

    def _made(self, seed: int) -> optuna.samplers.BaseSampler:
        with _experimental():
            return self._make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Makes the sampler of this trial's ticket."""
        self._inner = self._made((self._seed * 100_003 + trial.user_attrs.get("ticket", 0)) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler of the ticket, where nothing is to be proposed together."""
        if self._together is not None:
            return dict(self._together)
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler of the ticket."""
        if self._together is None:
            return self._inner.sample_relative(study, trial, search_space)
        trial = copy.copy(trial)
        # CMA-ES draws by it, and dead attempts have numbers too.
        trial.number = trial.user_attrs.get("ticket", trial.number)
        return self._inner.sample_relative(_TrialsWith(study, search_space), trial, search_space)  # type: ignore[arg-type]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler of the ticket."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler of the ticket."""
        self._inner.after_trial(study, trial, state, values)


class _TrialsWith:
    """A study whose finished trials are those that have all of these parameters."""

    def __init__(self, study: optuna.Study, names: Iterable[str]) -> None:
        self._of, self._names = study, set(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        found = self._of._get_trials(*args, **options)
        return [trial for trial in found if not trial.state.is_finished() or self._names <= trial.params.keys()]


def with_holes(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of a setting that has holes; those with one value alone are left out."""
    found: dict[str, BaseDistribution] = {}
    for name, values in space.axes().items():
        if isinstance(values[0], str):
            found[name] = CategoricalDistribution(values)
        elif name == PROBABILITY:
            found[name] = FloatDistribution(values[0], values[-1], step=P_STEP)
        else:
            found[name] = IntDistribution(max(values[0], 1), values[-1])
    return {name: distribution for name, distribution in found.items() if not distribution.single()}


def sampler(name: str, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of that name, made afresh for every ticket.

    Raises:
        StudyError: it needs a package that is not installed.
    """
    if name == "cmaes":
        try:
            importlib.import_module("cmaes")
        except ImportError:
            raise StudyError("sampler=cmaes: needs the package cmaes: pip install cmaes") from None
    makers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "tpe": lambda own: optuna.samplers.TPESampler(seed=own),
        "gp": lambda own: optuna.samplers.GPSampler(seed=own),
        "random": lambda own: optuna.samplers.RandomSampler(seed=own),
        # The tickets of these two have their settings already: Optuna's own leaves out what is enqueued, and takes the
        # settings of a hole that is not there for different points.
        "grid": lambda own: optuna.samplers.RandomSampler(seed=own),
        "brute_force": lambda own: optuna.samplers.RandomSampler(seed=own),
        # A sequence is one as long as all tickets share its seed.
        "qmc": lambda own: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
        "cmaes": lambda own: optuna.samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
    }
    together = with_holes(space) if name in ("gp", "qmc", "cmaes") else None
    if together and name == "cmaes":  # knows no words, and nothing with one dimension
        numbers = {axis: one for axis, one in together.items() if not isinstance(one, CategoricalDistribution)}
        together = numbers if len(numbers) > 1 else {}
    return PerTicket(makers[name], seed, together)


def pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner of that name; all wait for two thirds of the epochs, before which the strong holes trail behind."""
    warm_up = max(1, round(2 / 3 * epochs))
    with _experimental():
        if name == "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=warm_up)
        if name == "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=warm_up, max_resource=max(epochs, warm_up + 1))
        if name == "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=warm_up)
        if name == "patient":
            return optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(n_warmup_steps=warm_up), patience=2)
        return optuna.pruners.NopPruner()


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Optuna warns of what its next version may change; this one is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


# The storage

_POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg)?://")


class _Storage(RDBStorage):
    """One whose heart goes on when a beat is lost: Optuna's thread would end, and who lives count as dead."""

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life, if the database takes it."""
        with contextlib.suppress(*LOST):
            super().record_heartbeat(trial_id)


def open_storage(address: str, heartbeat_s: float) -> RDBStorage:
    """Optuna's tables at `sqlite:///FILE` or `postgresql://...`, made if they are not there.

    Raises:
        StudyError: it does not answer within `CONNECT_S` seconds, or the package that speaks to it is missing.
    """
    sqlite = address.startswith("sqlite")
    url = address if sqlite else _POSTGRES.sub("postgresql+psycopg://", address)
    connect = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_S}
    try:
        with lock_of(address), _experimental():
            storage = _Storage(
                url,
                heartbeat_interval=heartbeat_s,  # type: ignore[arg-type]
                grace_period=heartbeat_s * SILENT,  # type: ignore[arg-type]
                engine_kwargs={"connect_args": connect} | ({} if sqlite else {"pool_pre_ping": True}),
            )
    except ImportError as error:
        raise StudyError("storage=postgresql: needs psycopg: pip install 'psycopg[binary]'") from error
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise _unreachable(address, error) from None  # the cause may name the password
    if sqlite:
        _lock_before_reading(storage)
    return storage


def _lock_before_reading(storage: RDBStorage) -> None:
    """SQLite takes the write lock when a transaction begins, or two workers read one trial as free and both take it."""
    engine = storage.engine

    def leave_begin_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", leave_begin_to_us)
    sa.event.listen(engine, "begin", begin)
    engine.dispose()  # a connection is open already


def _unreachable(address: str, error: Exception) -> StudyError:
    storage, reason = without_password(address), _reason(error, address)
    if address.startswith("sqlite"):
        return StudyError(
            f"storage={storage}: cannot be opened ({reason}); check that the folder is there and writable"
        )
    return StudyError(f"storage={storage}: does not answer ({reason}); check host, port, database, user and PGPASSWORD")


def _reason(error: BaseException, address: str) -> str:
    """What the database said, in one line, without the address's password as it is written there or as it is meant."""
    text = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
    for password in passwords(address):
        text = text.replace(password, "***").replace(unquote(password), "***")
    return text


LOST = (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What Optuna and SQLAlchemy raise when the database is gone."""


def lost(address: str, error: BaseException) -> StudyError:
    """The storage went away while the study was at work."""
    reason = _reason(error.__cause__ or error, address)
    return StudyError(
        f"storage={without_password(address)}: was lost ({reason}); "
        "nothing that was finished is: the same command carries on"
    )


@contextlib.contextmanager
def telling_of_loss(address: str) -> Iterator[None]:
    """What the database's absence raises becomes one line.

    Raises:
        StudyError: the storage was lost.
    """
    try:
        yield
    except LOST as error:
        raise lost(address, error) from None  # the cause may name the password
    except AssertionError as error:
        # Optuna's own, in place of the error that it met before.
        if isinstance(error.__context__, LOST):
            raise lost(address, error.__context__) from None
        raise


_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


@contextlib.contextmanager
def lock_of(address: str) -> Iterator[None]:
    """One process at a time, on whichever machine; free again when its holder dies.

    Raises:
        StudyError: PostgreSQL does not answer.
    """
    if address.startswith("sqlite"):
        lock = FileLock(f"{Path(address.removeprefix('sqlite:///')).absolute()}.lock")
        try:
            lock.acquire()
        except OSError as error:
            raise _unreachable(address, error) from None
        try:
            yield
        finally:
            lock.release()
        return
    import psycopg

    number = int.from_bytes(hashlib.sha256(b"camparison study").digest()[:8], signed=True)
    try:
        connection = psycopg.connect(
            _POSTGRES.sub("postgresql://", address),
            autocommit=True,
            connect_timeout=CONNECT_S,
            **dict[str, Any](_KEEPALIVES),
        )
        # A machine that loses its power in the middle would hold the lock for two hours, PostgreSQL's default.
        for name, value in _KEEPALIVES.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"tcp_{name}", str(value)))
        connection.execute("SELECT pg_advisory_lock(%s)", (number,))
    except psycopg.Error as error:
        raise _unreachable(address, error) from None
    try:
        yield
    finally:
        connection.close()


# The ledger


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
            with _experimental():
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
    return json.dumps([processes.here(), os.getpid(), processes.started(os.getpid())])


def _died_here(worker: str) -> bool:
    host, pid, start = json.loads(worker)
    return bool(host == processes.here()) and not processes.is_alive(pid, start)
