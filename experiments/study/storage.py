"""The storage of a study: Optuna's tables on SQLite or PostgreSQL, and what happens when it does not answer."""

import contextlib
import functools
import inspect
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel

from ..system import sqlite_files
from ..system.secrets import hidden, remember, without_password
from ..tracking.signals import delayed_signals
from . import storage_lock
from .addresses import POSTGRES, StorageLost, StudyError, file_of
from .reconnect import until_it_answers
from .sampling import experimental

SILENT = 5  # a worker that misses so many heartbeats counts as lost
CONNECT_S = storage_lock.CONNECT_S
TRIES = 3  # of a statement whose connection broke

LOST = (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""Errors that Optuna and SQLAlchemy raise when the database does not answer any more."""


def _again(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a storage, called again where the connection breaks; the next connection waits for the database."""

    @functools.wraps(method)
    def call(self: RDBStorage, *given: Any, **named: Any) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return method(self, *given, **named)
            except LOST as error:
                if not left or not _broke_off(error):
                    raise
        raise AssertionError("the last try returns or raises")

    return call


def _broke_off(error: BaseException) -> bool:
    """Whether the connection was lost, and the statement is not at fault."""
    below = error if isinstance(error, sa.exc.SQLAlchemyError) else error.__cause__
    return isinstance(below, sa.exc.DBAPIError) and below.connection_invalidated


class _Undisturbed(RDBStorage):
    """A storage whose calls are never interrupted by a request to end."""


def _undisturbed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(*given: Any, **named: Any) -> Any:
        with delayed_signals():
            return method(*given, **named)

    return called


for _name, _method in vars(RDBStorage).items():
    if inspect.isfunction(_method) and not _name.startswith("__"):
        setattr(_Undisturbed, _name, _undisturbed(_method))


class _Storage(_Undisturbed):
    """A storage that survives lost connections.

    What may be repeated without another result is repeated: all that reads, and all that notes a value. Without its
    heartbeat a living worker would count as lost, because Optuna's thread ends at the first error.
    """

    def record_heartbeat(self, trial_id: int) -> None:
        """Stores a sign of life, if the database answers."""
        with contextlib.suppress(*LOST):
            super().record_heartbeat(trial_id)


# The end of a trial cannot be written twice, and a new trial would be there twice.
_ONCE = {"set_trial_state_values", "_get_prepared_new_trial"}
for _name, _method in vars(_Undisturbed).items():
    if _name.startswith(("get_", "_get_", "set_")) and _name not in _ONCE:
        setattr(_Storage, _name, _again(_method))


def open_storage(address: str, heartbeat_s: float) -> RDBStorage:
    """Opens Optuna's tables at `sqlite:///FILE` or `postgresql://...`; creates them if they do not exist.

    Raises:
        StudyError: the database does not answer within `CONNECT_S` seconds, it is something else than a storage of
            this Optuna, or its driver is not installed.
    """
    sqlite = address.startswith("sqlite")
    url = address if sqlite else POSTGRES.sub("postgresql+psycopg://", address)
    connect = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_S}
    try:
        with storage_lock.lock_of(address), experimental():
            if sqlite:
                _refuse_other_content(address)
            storage = _Storage(
                url,
                heartbeat_interval=heartbeat_s,  # type: ignore[arg-type]
                grace_period=heartbeat_s * SILENT,  # type: ignore[arg-type]
                engine_kwargs={"connect_args": connect} | ({} if sqlite else {"pool_pre_ping": True}),
            )
    except ImportError as error:
        raise StudyError("storage=postgresql: needs psycopg; pip install 'psycopg[binary]'") from error
    except RuntimeError as error:
        raise StudyError(_other_version(address, error)) from None
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, storage_lock.errors()) as error:
        raise unreachable(address, error) from None  # the cause may name the password
    if sqlite:
        _lock_before_reading(storage, file_of(address))
    else:
        storage_lock.answered(address)
        _wait_for_connections(storage, address)
    return storage


def _refuse_other_content(address: str) -> None:
    """Checks an SQLite file before Optuna adds its tables to it.

    Raises:
        StudyError: the file holds something else.
    """
    path = file_of(address)
    tables = sqlite_files.tables_in(path) if path.exists() else frozenset()
    other = tables - BaseModel.metadata.tables.keys() - {"alembic_version"}
    if {"experiments", "runs"} <= tables:
        raise StudyError(f"storage={address}: is MLflow's own file; give another one, such as sqlite:///studies.db")
    if other and "trials" not in tables:
        some = ", ".join(sorted(other)[:3])
        raise StudyError(f"storage={address}: is a database of another program, with tables such as {some}; {_OTHER}")


_OTHER = "give another file with storage=sqlite:///FILE"


def _other_version(address: str, error: RuntimeError) -> str:
    shown = without_password(address)
    made = re.search(r"set up by optuna ([\w.]+)", str(error))
    by = f"Optuna {made[1]}" if made else "another Optuna"
    if "upgrade" in str(error):
        return (
            f"storage={shown}: was made by {by}, which is older than {optuna.__version__}: make a copy of it, then "
            f"run `optuna storage upgrade --storage {shown}`"
        )
    return f"storage={shown}: was made by {by}, which is newer than {optuna.__version__}: use that Optuna, or {_OTHER}"


def _lock_before_reading(storage: RDBStorage, path: Path) -> None:
    """Makes SQLite lock at the start of a transaction; otherwise two workers can both take a trial that they read."""
    engine = storage.engine

    def leave_begin_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    def begin(connection: sa.Connection) -> None:
        sqlite_files.begin_writing(connection.exec_driver_sql, path)

    sa.event.listen(engine, "connect", leave_begin_to_us)
    sa.event.listen(engine, "begin", begin)
    engine.dispose()  # one connection is open already


def _wait_for_connections(storage: RDBStorage, address: str) -> None:
    """Makes every new connection wait for a database that is away."""

    def connect(dialect: Any, record: object, given: Any, named: Any) -> Any:
        # Under the lock, waiting would be of no use: the lock is lost too. A missing heartbeat does no harm.
        if storage_lock.held(address) or threading.current_thread() is not threading.main_thread():
            return dialect.connect(*given, **named)
        return until_it_answers(address, lambda: dialect.connect(*given, **named), dialect.dbapi.OperationalError)

    sa.event.listen(storage.engine, "do_connect", connect)


def unreachable(address: str, error: BaseException) -> StudyError:
    """The error for a storage that cannot be opened."""
    storage, reason = without_password(address), _reason(error, address)
    if address.startswith("sqlite"):
        known = sqlite_files.trouble(file_of(address), error, _OTHER)
        return StudyError(f"storage={storage}: {known or f'cannot be opened ({reason}); {_OTHER}'}")
    return StudyError(f"storage={storage}: does not answer ({reason}); check host, port, database, user and PGPASSWORD")


def _reason(error: BaseException, address: str) -> str:
    """The message of the database in one line, without the password, encoded or not."""
    remember(address)
    return hidden((str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0])


def lost(address: str, error: BaseException) -> StorageLost:
    """The error for a storage that stopped answering while the study was at work."""
    below, shown = error.__cause__ or error, without_password(address)
    known = sqlite_files.trouble(file_of(address), below, _OTHER) if address.startswith("sqlite") else ""
    return StorageLost(f"storage={shown}: {known or f'does not answer any more ({_reason(below, address)})'}")


@contextlib.contextmanager
def telling_of_loss(address: str) -> Iterator[None]:
    """Turns the errors of a lost database into one line.

    Raises:
        StorageLost: the storage does not answer any more.
    """
    try:
        yield
    except (*LOST, storage_lock.errors()) as error:
        raise lost(address, error) from None  # the cause may name the password
    except AssertionError as error:
        # Optuna raises this in place of the first error.
        if isinstance(error.__context__, LOST):
            raise lost(address, error.__context__) from None
        raise
