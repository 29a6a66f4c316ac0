"""Reading that waits until MLflow answers again."""

import time
from collections.abc import Callable
from typing import TypeVar

from . import outbox
from .failures import is_away, reason
from .sender import FIRST_PAUSE_S, LONGEST_PAUSE_S, say

T = TypeVar("T")


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
