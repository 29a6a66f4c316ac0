"""One lock for all machines that work for a study: a file beside SQLite, an advisory lock of PostgreSQL."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.secrets import without_password
from ..system.waiting import SAY_S, locked, say
from .addresses import POSTGRES, file_of
from .reconnect import until_it_answers

if TYPE_CHECKING:
    import psycopg

CONNECT_S = 5  # to wait for the answer of a database
_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_NUMBER = int.from_bytes(hashlib.sha256(b"camparison study").digest()[:8], signed=True)
_HOLDER = """SELECT application_name, host(client_addr) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s"""

_answered: set[str] = set()  # addresses that have answered this process: it waits when they are away
_held: dict[str, "psycopg.Connection"] = {}


class _NeverRaised(Exception):
    """Stands for the errors of a driver that is not installed."""


def errors() -> type[Exception]:
    """The errors of PostgreSQL's driver."""
    try:
        import psycopg
    except ImportError:
        return _NeverRaised
    return psycopg.Error


def answered(address: str) -> None:
    """Notes that the database has answered: from now on its lock is waited for if it is away."""
    _answered.add(address)


def held(address: str) -> bool:
    """Whether this process holds the lock.

    Raises:
        psycopg.Error: it held the lock, which was lost with its connection.
    """
    if address not in _held:
        return False
    _held[address].execute("SELECT 1")
    return True


@contextlib.contextmanager
def lock_of(address: str) -> Iterator[None]:
    """Holds the lock of all processes that use this storage; it becomes free when its holder dies.

    Raises:
        OSError, psycopg.Error: the lock cannot be had, because the storage does not answer.
    """
    if address.startswith("sqlite"):
        path = file_of(address)
        with locked(Path(f"{path}.lock"), f"the study in {path}"):
            yield
        return
    if address in _answered:
        connection = until_it_answers(address, lambda: _locked_connection(address), errors())
    else:
        connection = _locked_connection(address)
    _held[address] = connection
    try:
        yield
    finally:
        del _held[address]
        connection.close()


def _locked_connection(address: str) -> "psycopg.Connection":
    import psycopg

    connection = psycopg.connect(
        POSTGRES.sub("postgresql://", address),
        autocommit=True,
        connect_timeout=CONNECT_S,
        application_name=f"camparison {socket.gethostname()[:40]} {os.getpid()}",
        **dict[str, Any](_KEEPALIVES),
    )
    # Otherwise a machine without power would keep the lock for two hours, the default of PostgreSQL.
    settings = {f"tcp_{name}": str(value) for name, value in _KEEPALIVES.items()}
    for name, value in (settings | {"lock_timeout": f"{SAY_S * 1000:.0f}"}).items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (_NUMBER,))
    except psycopg.errors.LockNotAvailable:
        say(f"waiting for the study in {without_password(address)}, which {_holder(connection)} uses")
        connection.execute("SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s)", (_NUMBER,))
    return connection


def _holder(connection: "psycopg.Connection") -> str:
    """The process that holds the lock, as the database knows it."""
    found = connection.execute(_HOLDER, (_NUMBER >> 32 & 0xFFFFFFFF, _NUMBER & 0xFFFFFFFF)).fetchone()
    name, place = found or ("another program", None)
    return f"{name or 'another program'}{f' on {place}' if place else ''}"
