"""A database that is away for a while: it is asked again, with growing pauses, for ten minutes."""

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ..system.secrets import hidden, remember, without_password
from ..tracking.signals import raise_if_asked

PATIENCE = "CAMPARISON_RECONNECT_S"
"""Environment variable with another number of seconds in place of `PATIENCE_S`."""
PATIENCE_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
SLICE_S = 0.2  # of a pause, after which a request to end is heard

T = TypeVar("T")
_away: set[str] = set()  # addresses that the terminal shows as away: several threads may wait for one


def until_it_answers(address: str, ask: Callable[[], T], errors: type[Exception] | tuple[type[Exception], ...]) -> T:
    """What `ask` returns, as soon as it no longer raises one of the errors.

    Raises:
        Exception: the last of the errors, after `PATIENCE_S` seconds.
        Terminated, KeyboardInterrupt: the process was asked to end.
    """
    end = time.monotonic() + patience()
    pause = FIRST_PAUSE_S
    while True:
        try:
            answer = ask()
        except errors as error:
            if time.monotonic() + pause > end:
                raise
            _say_away(address, error)
        else:
            _say_back(address)
            return answer
        _wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _wait(seconds: float) -> None:
    """Waits, but not after a request to end, which calls of the storage delay.

    Raises:
        Terminated, KeyboardInterrupt: the process was asked to end.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        raise_if_asked()
        time.sleep(min(left, SLICE_S))


def patience() -> float:
    """Seconds for which a database may be away."""
    return float(os.environ.get(PATIENCE, "").strip() or PATIENCE_S)


def _say_away(address: str, error: Exception) -> None:
    if address not in _away:
        _away.add(address)
        remember(address)
        reason = hidden((str(error).strip().splitlines() or [type(error).__name__])[0])
        shown, seconds = without_password(address), f"{patience():.0f}"
        line = f"storage={shown}: does not answer ({reason}); trying again for {seconds} seconds"
        print(line, file=sys.stderr, flush=True)


def _say_back(address: str) -> None:
    if address in _away:
        _away.discard(address)
        print(f"storage={without_password(address)}: answers again", file=sys.stderr, flush=True)
