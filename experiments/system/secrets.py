"""Passwords and tokens, which no message, record or list of processes may show."""

import os
import re
from urllib.parse import quote, unquote

HIDDEN = "***"
_SHORTEST = 3  # shorter words would be hidden everywhere
_SECRET = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "DATABRICKS_TOKEN")
_WITH_ADDRESS = re.compile(r"MLFLOW_.*UR[IL]$|CAMPARISON_STORAGE$|https?_proxy$|all_proxy$", re.IGNORECASE)
_remembered: set[str] = set()

# Up to the last @, because people do not encode @, / and # in a password; or among the options after the ?.
_PASSWORD = re.compile(
    r"(^(?:\w[\w+]*:(?://)?[^:/@]*|[^:/@]*(?=:(?!//))):|password=)((?<=:).*(?=@)|(?<==)[^&]*)", re.DOTALL
)
_IN_TEXT = re.compile(r"(\b[a-z][\w+.-]*://[^\s:/@]*:)[^\s@]+(?=@)")


def without_password(address: str) -> str:
    """The address with `***` in place of a password. In an address with several @, the password ends at the last."""
    return _PASSWORD.sub(rf"\1{HIDDEN}", address)


def passwords(address: str) -> list[str]:
    """The passwords that `without_password` hides."""
    return [match[2] for match in _PASSWORD.finditer(address) if match[2]]


def remember(address: str) -> None:
    """Makes `hidden` hide the passwords in this address, wherever they appear."""
    _remembered.update(passwords(address))


def hidden(text: str) -> str:
    """The text with `***` in place of all passwords and tokens that this process knows, and of those in addresses."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _IN_TEXT.sub(rf"\1{HIDDEN}", text)


def _known() -> set[str]:
    found = set(_remembered)
    for name, value in os.environ.items():
        if name in _SECRET:
            found.add(value)
        elif _WITH_ADDRESS.match(name):
            found.update(passwords(value))
    forms = {form for secret in found for form in (secret.strip(), unquote(secret), quote(secret, safe=""))}
    return {form for form in forms if len(form) >= _SHORTEST}
