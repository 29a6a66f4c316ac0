"""The streams and signals of a program: output that nobody reads is dropped, and Ctrl-C ends it with one line.

This module imports only what Python has imported already, so that a program is ready for Ctrl-C within milliseconds.
"""

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_AGAIN_S = 0.05

_IN_ASCII = {"±": "+/-", "−": "-", "–": "-", "→": "->", "←": "<-", "’": "'", "“": '"', "”": '"', "×": "x", "…": "..."}


def run_program(main: Callable[[], object], command: str) -> NoReturn:
    """Runs `main` as the program `command`, and ends the process.

    Ctrl-C ends the process at once, with one line and exit code 130; inside `interruptible` it raises KeyboardInterrupt
    instead. A closed terminal (SIGHUP) is treated as a request to end (SIGTERM), unless `nohup` started the program.
    """
    end_at_ctrl_c(command)
    mend_streams()
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)
    os.environ["MPLBACKEND"] = "agg"  # no picture needs a window, and a wrong value ends the import of matplotlib
    try:
        main()
    except KeyboardInterrupt:  # a second one, while the first was being handled
        _end_at_once(command)
    finally:
        sys.stdout.flush()
    raise SystemExit(0)


def end_at_ctrl_c(command: str) -> None:
    """From now on, Ctrl-C ends this process at once, with one line about the program `command` and exit code 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore it
        signal.signal(signal.SIGINT, lambda number, frame: _end_at_once(command))


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt, so that what was opened can be closed."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, or not from Python
        yield
        return
    hook = sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = lambda lost: _send_again(lost.exc_type) or hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def _send_again(lost: type[BaseException]) -> bool:
    """Sends a signal again whose exception Python has lost, because it came in a destructor or in a callback."""
    numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    number = next((number for kind, number in numbers.items() if issubclass(lost, kind)), None)
    if number is None:
        return False
    from threading import Timer

    Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()  # later, when the destructor has ended
    return True


def say_stopped(command: str, what: str) -> None:
    """Prints one line about the end of the program, unless it is not the first of several processes.

    Writes to the file descriptor, because a signal can come in the middle of a print.
    """
    start = "\n" if os.isatty(2) else ""  # the terminal shows ^C at the start of the line
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0":
        with suppress(OSError):
            os.write(2, f"{start}{command}: {what}\n".encode())


def _end_at_once(command: str) -> NoReturn:
    say_stopped(command, "stopped")
    os._exit(INTERRUPTED)


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Does what SIGTERM does at this moment."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        handler(number, frame)
        return
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def mend_streams() -> None:
    """Makes stdin, stdout and stderr usable, whatever they are: closed, a pipe without a reader, or of any encoding."""
    for number in range(3):
        _open_if_closed(number)
    codecs.register_error("spelled out", _spelled_out)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _patient(1, sys.stdout), _patient(2, sys.stderr)


def _open_if_closed(number: int) -> None:
    """Otherwise the next file that is opened would get this number, and what is printed would go into it."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        os.dup2(opened, number)
        if opened != number:
            os.close(opened)


def _patient(number: int, stream: TextIO | None) -> TextIO:
    """A stream like `stream` that never fails."""
    raw = _Patient(number, "w", closefd=False)
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # as Python itself does with -u
        encoding=stream.encoding if stream else "utf-8",
        errors="spelled out",
        line_buffering=bool(stream and stream.line_buffering),
        write_through=unbuffered,
    )


class _Patient(io.FileIO):
    """A file descriptor that takes everything: when its reader is gone or the disk is full, the rest is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for the children of this process, too
            os.close(nowhere)
            return memoryview(data).nbytes


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """Characters that the encoding does not have, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end
