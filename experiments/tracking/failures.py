"""What an error of MLflow's client means: MLflow refuses something for good, or it is away."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from mlflow.exceptions import MlflowException, RestException
from requests import RequestException

from .client import one_line
from .locations import TrackingError

T = TypeVar("T")

# Without BAD_REQUEST: MLflow says that, too, when its database has closed a connection.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_LONGEST_REASON = 160  # characters
_MEANINGS = {
    "Read timed out": "no answer in time",
    "timed out": "no connection in time",
    "Connection refused": "nothing listens there",
    "not in a valid JSON format": "something else than MLflow answers",
    "RemoteDisconnected": "the connection was closed",
    "Max retries exceeded": "no connection",
    "database is locked": "database is locked",
}
_BY_HTTP = "API request to"  # how MLflow's client begins what it says about an answer that is not MLflow's


def is_away(error: BaseException) -> bool:
    """Whether MLflow did not answer itself, or only that it cannot do it now."""
    if isinstance(error, RequestException):
        status = error.response.status_code if error.response is not None else 503
        return status >= 500 or status in (401, 403, 407, 408, 429)
    if not isinstance(error, MlflowException):
        return False
    unavailable = error.error_code in ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
    return unavailable or (_BY_HTTP in str(error) and not isinstance(error, RestException))


def found_unless_away(search: Callable[[], Sequence[T]]) -> Sequence[T]:
    """What `search` finds; nothing if MLflow is away."""
    try:
        return search()
    except (MlflowException, TrackingError) as error:
        if not is_away(error) and not is_away(error.__cause__ or error):
            raise
        return []


def reason(error: Exception) -> str:
    """Why MLflow does not take something now, in a few words and without passwords."""
    text = re.sub(r"//[^/@\s]+@", "//", one_line(error))
    if status := re.search(r"(?:error code |^HTTPError: |too many )(\d{3})", text):
        return f"status {status[1]}"
    for said, meaning in _MEANINGS.items():
        if said in text:
            return meaning
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def is_answer(error: Exception) -> bool:
    """Whether MLflow itself has refused, for good; when a proxy answers in its place, MLflow is away."""
    if not isinstance(error, MlflowException) or error.error_code not in _REFUSALS:
        return False
    return isinstance(error, RestException) or _BY_HTTP not in str(error)
