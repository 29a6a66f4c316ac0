"""The address of the storage of a study, and how it is checked."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ..errors import CannotStart, Failed
from ..system.secrets import passwords, remember, without_password

STORAGE = "CAMPARISON_STORAGE"
"""Environment variable with the address, for workers. Unlike an option, it does not appear in lists of processes."""

POSTGRES = re.compile(r"^postgres(ql)?(\+psycopg)?://")
"""How the address of a PostgreSQL server begins."""


class StudyError(CannotStart):
    """A study cannot be opened; the message is one line without any password."""


class StudyStopped(Failed):
    """A study stopped on the way; the message is one line without any password."""


class StorageLost(StudyStopped):
    """The storage of a study does not answer any more."""


def file_of(address: str) -> Path:
    """The file of an SQLite storage."""
    return Path(address.removeprefix("sqlite:///").partition("?")[0]).absolute()


_PLAIN = r"[^\s:/?#@\[\]]"  # characters without a meaning in an address
_SERVER = re.compile(
    rf"postgres(ql)?(\+psycopg)?://({_PLAIN}*(:{_PLAIN}*)?@)?({_PLAIN}+|\[[\da-fA-F:.]+\])(:\d+)?(/{_PLAIN}*)?(\?[^\s#@]*)?"
)


def password_to_environment(words: Sequence[str]) -> list[str]:
    """The words of a command line; a password in the address of `--storage` becomes PGPASSWORD, which nothing shows."""
    kept = list(words)
    for place, word in enumerate(kept):
        option, equals, value = word.partition("=")
        if option != "--storage" or not equals:
            option, value = "", word if place and kept[place - 1] == "--storage" else ""
        if _SERVER.fullmatch(value) and (found := passwords(value)):
            os.environ["PGPASSWORD"] = unquote(found[0])
            address = value.replace(f":{found[0]}@", "@", 1)
            kept[place] = f"{option}={address}" if option else address
    return kept


def hide_in_list_of_processes(words: Sequence[str], safe: Sequence[str]) -> None:
    """Starts this program anew with the safe words, because everybody can read the words of a process."""
    if list(words) != list(safe):
        start = sys.orig_argv[1 : len(sys.orig_argv) - len(words)]
        os.execv(sys.executable, [sys.executable, *start, *safe])


def check_storage(address: str) -> None:
    """Checks that `address` is an SQLite file or a PostgreSQL server.

    Raises:
        ValueError: it is neither; the message is one line without any password.
    """
    remember(address)
    shown = without_password(address)
    if "password=" in address:
        raise ValueError(f"storage={shown}: put the password in PGPASSWORD or ~/.pgpass")
    if not re.fullmatch("sqlite:///.+", address) and not _SERVER.fullmatch(address):
        special = shown != address and "://" in address
        hint = "; in a password, write / as %2F and @ as %40" if special else ""
        raise ValueError(f"storage={shown}: must be sqlite:///FILE or postgresql://USER@HOST/DATABASE{hint}")
