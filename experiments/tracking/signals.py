"""SIGTERM and Ctrl-C as exceptions, so that runs are closed on the way out."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM): raised where the program stands, so that its runs are closed."""


@contextlib.contextmanager
def deaf_to_signals() -> Iterator[None]:
    """A second signal, such as torchrun sends when one of its processes has failed, does not come between."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Inside, a request to end raises where the program stands: SIGTERM `Terminated`, Ctrl-C KeyboardInterrupt.

    Python loses an exception that a signal raises in a callback or a destructor; `raise_if_asked` makes up for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals
        return
    handlers = {signal.SIGTERM: _terminate}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell has its background jobs ignore it
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
    """Returns where nobody has asked this process to end; for long work, between its parts.

    Raises:
        Terminated, KeyboardInterrupt: somebody has.
    """
    if _asked:
        raise KeyboardInterrupt if _asked[-1] == signal.SIGINT else Terminated(128 + _asked[-1])
