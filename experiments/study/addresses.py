"""The address of the storage of a study, checked and shown without its password."""

import re

from ..errors import CannotStart

STORAGE = "CAMPARISON_STORAGE"
"""Environment variable that tells workers where the study is: a password in it is in no process list."""


class StudyError(CannotStart):
    """A study that cannot be opened or carried on; one line, without any password."""


_PLAIN = r"[^\s:/?#@\[\]]"  # signs that mean nothing in an address
_SERVER = re.compile(
    rf"postgres(ql)?(\+psycopg)?://({_PLAIN}*(:{_PLAIN}*)?@)?({_PLAIN}+|\[[\da-fA-F:.]+\])(:\d+)?(/{_PLAIN}*)?(\?[^\s#@]*)?"
)


def check_storage(address: str) -> None:
    """Returns where a study can be kept at `address`.

    Raises:
        ValueError: it is neither an SQLite file nor a PostgreSQL server; in one line, without any password.
    """
    shown = without_password(address)
    if "password=" in address:
        raise ValueError(f"storage={shown}: give the password as PGPASSWORD or in ~/.pgpass")
    if not re.fullmatch("sqlite:///.+", address) and not _SERVER.fullmatch(address):
        hint = (
            "; write signs such as / and @ of a password as %2F and %40"
            if shown != address and "://" in address
            else ""
        )
        raise ValueError(f"storage={shown}: must be sqlite:///FILE or postgresql://USER@HOST/DATABASE{hint}")


def without_password(storage: str) -> str:
    """The address as it may be shown, however it is written: a password ends with the last @."""
    return _PASSWORD.sub(r"\1***", storage)


def passwords(storage: str) -> list[str]:
    """What `without_password` hides."""
    return [match[2] for match in _PASSWORD.finditer(storage) if match[2]]


# Up to the last @, for people write @, / and # into a password as they are; or among the options.
_PASSWORD = re.compile(
    r"(^(?:\w[\w+]*:(?://)?[^:/@]*|[^:/@]*(?=:(?!//))):|password=)((?<=:).*(?=@)|(?<==)[^&]*)", re.DOTALL
)
