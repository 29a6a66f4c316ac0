"""Waiting for other processes of this machine: locks by a file. After two seconds it is said who is waited for."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .processes import lockers_of, named

SAY_S = 2.0  # of waiting, after which it is said
SAY_AGAIN_S = 60.0  # before the same is said again
_said: dict[str, float] = {}


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock; it becomes free when its holder dies.

    Args:
        what: the lock is for, in words that follow `waiting for`.

    Raises:
        OSError: the lock file cannot be made.
    """
    path.touch()  # where no file can be made, such as in /proc, the lock would be waited for without end
    lock = FileLock(path)
    try:
        lock.acquire(timeout=SAY_S)
    except Timeout:
        say(f"waiting for {what}, which another program uses: {path} is locked{by_whom(path)}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def by_whom(path: Path) -> str:
    """Who locks the file: ` by process 12 (sqlite3)`; "" if that cannot be known."""
    lockers = [named(pid) for pid in lockers_of(path)]
    return f" by {', '.join(lockers[:3])}" if lockers else ""


def say(what: str) -> None:
    """Prints what is waited for, the same at most once a minute."""
    if time.monotonic() - _said.get(what, -SAY_AGAIN_S) >= SAY_AGAIN_S:
        _said[what] = time.monotonic()
        print(what, file=sys.stderr, flush=True)
