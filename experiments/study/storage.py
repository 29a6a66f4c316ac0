"""The storage of a study: Optuna's tables on SQLite or PostgreSQL, one lock for all machines, lost connections."""

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
import sqlalchemy as sa
from filelock import FileLock
from optuna.storages import RDBStorage

from ..tracking.signals import delayed_signals
from .addresses import StudyError, passwords, without_password
from .sampling import experimental

SILENT = 5  # a worker that misses so many heartbeats counts as lost
CONNECT_S = 5  # to wait for the answer of a database
_POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg)?://")


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
    """A storage that survives a lost heartbeat. Optuna's thread would end, and a living worker would count as lost."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Stores a sign of life, if the database answers."""
        with contextlib.suppress(*LOST):
            super().record_heartbeat(trial_id)


def open_storage(address: str, heartbeat_s: float) -> RDBStorage:
    """Opens Optuna's tables at `sqlite:///FILE` or `postgresql://...`; creates them if they do not exist.

    Raises:
        StudyError: the database does not answer within `CONNECT_S` seconds, or its driver is not installed.
    """
    sqlite = address.startswith("sqlite")
    url = address if sqlite else _POSTGRES.sub("postgresql+psycopg://", address)
    connect = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_S}
    try:
        with lock_of(address), experimental():
            storage = _Storage(
                url,
                heartbeat_interval=heartbeat_s,  # type: ignore[arg-type]
                grace_period=heartbeat_s * SILENT,  # type: ignore[arg-type]
                engine_kwargs={"connect_args": connect} | ({} if sqlite else {"pool_pre_ping": True}),
            )
    except ImportError as error:
        raise StudyError("storage=postgresql: needs psycopg; pip install 'psycopg[binary]'") from error
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise _unreachable(address, error) from None  # the cause may name the password
    if sqlite:
        _lock_before_reading(storage)
    return storage


def _lock_before_reading(storage: RDBStorage) -> None:
    """Makes SQLite lock at the start of a transaction; otherwise two workers can both take a trial that they read."""
    engine = storage.engine

    def leave_begin_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", leave_begin_to_us)
    sa.event.listen(engine, "begin", begin)
    engine.dispose()  # one connection is open already


def _unreachable(address: str, error: Exception) -> StudyError:
    storage, reason = without_password(address), _reason(error, address)
    if address.startswith("sqlite"):
        return StudyError(
            f"storage={storage}: cannot be opened ({reason}); check that the folder is there and writable"
        )
    return StudyError(f"storage={storage}: does not answer ({reason}); check host, port, database, user and PGPASSWORD")


def _reason(error: BaseException, address: str) -> str:
    """The message of the database in one line, without the password, encoded or not."""
    text = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
    for password in passwords(address):
        text = text.replace(password, "***").replace(unquote(password), "***")
    return text


LOST = (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""Errors that Optuna and SQLAlchemy raise when the database does not answer any more."""


def lost(address: str, error: BaseException) -> StudyError:
    """The error for a storage that stopped answering while the study was at work."""
    reason = _reason(error.__cause__ or error, address)
    return StudyError(
        f"storage={without_password(address)}: does not answer any more ({reason}); "
        "finished trainings are kept, and the same command continues the study"
    )


@contextlib.contextmanager
def telling_of_loss(address: str) -> Iterator[None]:
    """Turns the errors of a lost database into one line.

    Raises:
        StudyError: the storage does not answer any more.
    """
    try:
        yield
    except LOST as error:
        raise lost(address, error) from None  # the cause may name the password
    except AssertionError as error:
        # Optuna raises this in place of the first error.
        if isinstance(error.__context__, LOST):
            raise lost(address, error.__context__) from None
        raise


_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


@contextlib.contextmanager
def lock_of(address: str) -> Iterator[None]:
    """A lock for the processes of all machines; it becomes free when its holder dies.

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
        # Otherwise a machine without power would keep the lock for two hours, the default of PostgreSQL.
        for name, value in _KEEPALIVES.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"tcp_{name}", str(value)))
        connection.execute("SELECT pg_advisory_lock(%s)", (number,))
    except psycopg.Error as error:
        raise _unreachable(address, error) from None
    try:
        yield
    finally:
        connection.close()
