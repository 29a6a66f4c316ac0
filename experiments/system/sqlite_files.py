"""SQLite files: what is in one, which processes use it, and a sentence for each thing that can be wrong with it."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from .waiting import SAY_S, by_whom, say

LOCKED_S = 60.0  # of waiting for a lock, after which it is an error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that exists, in which no transaction begins by itself.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=SAY_S, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def tables_in(path: Path) -> frozenset[str]:
    """The names of the tables; none in an empty file. Undoes what a killed process has half written.

    Raises:
        sqlite3.Error: the file cannot be read, or is no database.
    """
    with opened(path) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return frozenset(name for (name,) in names)


def has_rows(path: Path, table: str, more_than: int = 0) -> bool:
    """Whether the table has more rows than that."""
    with opened(path) as connection:
        query = f'SELECT 1 FROM "{table}" LIMIT ?'
        return len(connection.execute(query, (more_than + 1,)).fetchall()) > more_than


def schema_version(path: Path) -> str:
    """The version of the tables that Alembic keeps there, for MLflow and for Optuna; "" without one."""
    with opened(path) as connection, contextlib.suppress(sqlite3.OperationalError):
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else ""
    return ""


def check_writable(path: Path) -> None:
    """Waits until nobody locks the file, and checks that it can be written.

    Raises:
        sqlite3.Error: it cannot be written, or is locked for `LOCKED_S` seconds.
    """
    # SQLite begins a transaction in a read-only file too; it writes its journal into the folder.
    if not os.access(path, os.W_OK) or not os.access(path.absolute().parent, os.W_OK):
        raise sqlite3.OperationalError("attempt to write a readonly database")
    with opened(path) as connection:
        begin_writing(connection.execute, path)
        connection.execute("ROLLBACK")


def begin_writing(execute: Callable[[str], object], path: Path) -> None:
    """Begins a transaction that writes. Says who locks the file, if that takes longer than `SAY_S` seconds.

    Args:
        execute: runs a statement on a connection to the file.

    Raises:
        Exception: what `execute` raises, if the file cannot be written or is locked for `LOCKED_S` seconds.
    """
    execute(f"PRAGMA busy_timeout = {SAY_S * 1000:.0f}")
    try:
        execute("BEGIN IMMEDIATE")
    except Exception as error:
        if "locked" not in str(error):
            raise
        say(f"waiting for {path}, which is locked{by_whom(path)}")
        execute(f"PRAGMA busy_timeout = {(LOCKED_S - SAY_S) * 1000:.0f}")
        execute("BEGIN IMMEDIATE")


_FILE_SYSTEM = {
    **dict.fromkeys(
        (errno.EPERM, errno.ENOENT, errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EROFS),
        "unable to open database file",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "database or disk is full"),
}
"""Errors of the file system, as SQLite says them."""


def trouble(path: Path, error: BaseException, other: str) -> str:
    """A sentence about an error of SQLite or of the file system, with the way out; "" if it is of another kind.

    Args:
        other: how to use another file, such as `set MLFLOW_TRACKING_URI=sqlite:///FILE`.
    """
    text = _FILE_SYSTEM.get(error.errno or 0, str(error)) if isinstance(error, OSError) else str(error)
    if "database is locked" in text or "database table is locked" in text:
        return f"{path} is locked{by_whom(path) or ' by another program'}: wait until that has ended, and start again"
    if "readonly database" in text or "unable to open database file" in text:
        return f"{path} cannot be {_refused(path)}: change that, or {other}"
    if "disk is full" in text:
        return f"the disk of {path} is full: free some space and start again; what is in the file is unharmed"
    if "file is not a database" in text:
        return f"{path} is no SQLite database: restore it from a copy if it was one, or {other}"
    if "malformed" in text:
        return f"{path} is damaged ({text[:80]}): restore it from a copy, or read what is left with `sqlite3 .recover`"
    if "disk I/O error" in text:
        return f"the disk of {path} reports an error: check the disk, and start again"
    return ""


def _refused(path: Path) -> str:
    """What keeps this process from using the file, in words that follow `cannot be`."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"opened, because there is no folder {folder}"
    if path.is_dir():
        return "opened, because it is a folder"
    if path.exists() and not os.access(path, os.R_OK):
        return "read: this user may not read the file"
    if path.exists() and not os.access(path, os.W_OK):
        return "written: the file is read-only for this user"
    if not os.access(folder, os.W_OK):
        return f"written: the folder {folder} is read-only for this user"
    return "opened or written"
