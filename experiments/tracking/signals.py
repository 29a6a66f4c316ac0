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
    handlers = {signal.SIGTERM: _terminate}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore it
        handlers[signal.SIGINT] = _interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before[signal.SIGTERM] is not _terminate:
            _asked.clear()


_asked: list[int] = []


def _terminate(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise Terminated(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def raise_if_asked() -> None:
    """Checks that nobody has asked this process to end. Call it between the parts of long work.

    Raises:
        Terminated, KeyboardInterrupt: somebody has asked.
    """
    if _asked:
        raise KeyboardInterrupt if _asked[-1] == signal.SIGINT else Terminated(128 + _asked[-1])
