"""Errors that say that MLflow is away, and reading that waits until it answers again."""

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException, RestException
from requests import RequestException

from . import outbox
from .sender import FIRST_PAUSE_S, LONGEST_PAUSE_S, say
from .sending import reason

T = TypeVar("T")
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


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns. While MLflow is away it is called again, for `wait_for_tracking` seconds in all.

    Raises:
        Exception: what `read` raised last.
    """
    end, pause = time.monotonic() + outbox.wait_s(), FIRST_PAUSE_S
    while True:
        try:
            return read()
        except Exception as error:
            if not is_away(error) or time.monotonic() + pause > end:
                raise
            if pause == FIRST_PAUSE_S:
                say(f"waiting up to {outbox.wait_s():g} s for MLflow, which holds what is read next ({reason(error)})")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
