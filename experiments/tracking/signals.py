"""Turns SIGTERM and Ctrl-C into exceptions, so that runs are closed before the process ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM); raised at the current line, so that the runs are closed."""


@contextlib.contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Inside, further signals are ignored, such as those that torchrun sends when one of its processes fails."""
    if threading.current_thread() is not threading.main_thread():
        yield  # in Python only the main thread handles signals
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Inside, a request to end raises at the current line: SIGTERM raises `Terminated`, Ctrl-C KeyboardInterrupt.

    Python loses an exception that a signal raises in a callback or a destructor; `raise_if_asked` raises it again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # in Python only the main thread handles signals
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore it
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before[signal.SIGTERM] is not _ask:
            _asked.clear()
            _waiting.clear()


_asked: list[int] = []
_waiting: list[int] = []  # requests that arrived while they were delayed
_delays = 0


@contextlib.contextmanager
def delayed_signals() -> Iterator[None]:
    """Inside, a request to end waits; it raises at the end of the block.

    Use it around calls of a database. An exception at any line of SQLAlchemy can leave a transaction open, for which
    the next call of the same process then waits until its time-out.
    """
    global _delays  # only the main thread changes it, and only the main thread handles signals
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _delays += 1
    try:
        yield
    finally:
        _delays -= 1
    if _waiting and not _delays:
        number = _waiting[-1]
        _waiting.clear()
        _raise(number)


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    if _delays:
        _waiting.append(number)
    else:
        _raise(number)


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)


def raise_if_asked() -> None:
    """Checks that nobody has asked this process to end. Call it between the parts of long work.

    Raises:
        Terminated, KeyboardInterrupt: somebody has asked, and this is the main thread.
    """
    if _asked and threading.current_thread() is threading.main_thread():
        _raise(_asked[-1])
