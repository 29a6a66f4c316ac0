"""The address of the storage of a study: how it is checked, and how it is shown without its password."""

import re

from ..errors import CannotStart

STORAGE = "CAMPARISON_STORAGE"
"""Environment variable with the address, for workers. Unlike an option, it does not appear in lists of processes."""


class StudyError(CannotStart):
    """A study cannot be opened or continued; the message is one line without any password."""


_PLAIN = r"[^\s:/?#@\[\]]"  # characters without a meaning in an address
_SERVER = re.compile(
    rf"postgres(ql)?(\+psycopg)?://({_PLAIN}*(:{_PLAIN}*)?@)?({_PLAIN}+|\[[\da-fA-F:.]+\])(:\d+)?(/{_PLAIN}*)?(\?[^\s#@]*)?"
)


def check_storage(address: str) -> None:
    """Checks that `address` is an SQLite file or a PostgreSQL server.

    Raises:
        ValueError: it is neither; the message is one line without any password.
    """
    shown = without_password(address)
    if "password=" in address:
        raise ValueError(f"storage={shown}: put the password in PGPASSWORD or ~/.pgpass")
    if not re.fullmatch("sqlite:///.+", address) and not _SERVER.fullmatch(address):
        special = shown != address and "://" in address
        hint = "; in a password, write / as %2F and @ as %40" if special else ""
        raise ValueError(f"storage={shown}: must be sqlite:///FILE or postgresql://USER@HOST/DATABASE{hint}")


def without_password(storage: str) -> str:
    """The address with `***` in place of a password. In an address with several @, the password ends at the last."""
    return _PASSWORD.sub(r"\1***", storage)


def passwords(storage: str) -> list[str]:
    """The passwords that `without_password` hides."""
    return [match[2] for match in _PASSWORD.finditer(storage) if match[2]]


# Up to the last @, because people do not encode @, / and # in a password; or among the options after the ?.
_PASSWORD = re.compile(
    r"(^(?:\w[\w+]*:(?://)?[^:/@]*|[^:/@]*(?=:(?!//))):|password=)((?<=:).*(?=@)|(?<==)[^&]*)", re.DOTALL
)
