"""What every entry point does around its work: prepare the store, print each problem in one line, set the exit code."""

import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, TracebackType

from .errors import CannotStart, Failed, memory_problem
from .settings.command_line import fail
from .system import own_code
from .system.allocator import keep_freed_memory
from .system.secrets import hidden
from .system.terminal import INTERRUPTED, interruptible, say_stopped
from .tracking.client import begun
from .tracking.lifetime import prepare_tracking
from .tracking.locations import TrackingError
from .tracking.outbox import choose, wait_s
from .tracking.sender import finish
from .tracking.signals import Terminated
from .tracking.store import told
from .training import distributed

LAST_WORD_S = 5.0  # how long a command that failed waits for an MLflow that is away
KEPT = "finished runs and the last checkpoint of a long training are kept; run the same command again to continue"
NOTHING = "no training had begun; run the same command again to start"


@contextmanager
def at_work(
    command: str, given: Mapping[str, str] = MappingProxyType({}), *, last_words: bool = True
) -> Iterator[None]:
    """Exits with code 2 if the work cannot start, 1 if it fails on the way, and 130 after Ctrl-C.

    The last line says what exists now, and how to go on. When several processes train together, only rank 0 writes and
    prints. Errors that keep one machine from starting, such as missing data, are printed by the first process on that
    machine. Without `last_words` nothing is printed about a request to end (SIGTERM, Ctrl-C), because the process that
    asked for it says so itself.

    Of the options `given` it takes those of the tracking store. What earlier commands left in the outbox is sent first,
    and at the end MLflow is waited for.
    """
    sys.excepthook = print_without_passwords
    keep_freed_memory()
    before = begun()
    patience = 0.0
    with interruptible():
        try:
            if distributed.rank() == 0:
                _prepare(command, given)
                patience = min(LAST_WORD_S, wait_s())
            with told():
                yield
            patience = wait_s()
        except CannotStart as error:
            if distributed.local_rank():
                raise SystemExit(2) from None
            if begun() == before:
                fail(command, error.problems)
            raise SystemExit(_lines(command, *error.problems, KEPT)) from None
        except Failed as error:
            raise SystemExit(1 if distributed.rank() else _lines(command, str(error), _rest(before))) from None
        except KeyboardInterrupt:
            if last_words:
                say_stopped(command, f"stopped; {_rest(before)}")
            raise SystemExit(INTERRUPTED) from None
        except Terminated as error:
            if last_words:
                name = signal.Signals(int(error.code or 0) - 128).name
                say_stopped(command, f"ended by {name}; {_rest(before)}")
            raise
        except (Exception, SystemExit) as error:
            if own_code.is_own(error):
                line = f"your own code fails: {own_code.told(error)}"
                raise SystemExit(_lines(command, line, _rest(before))) from None
            if isinstance(error, SystemExit):
                raise
            if problem := memory_problem(error):
                raise SystemExit(1 if distributed.rank() else _lines(command, problem, _rest(before))) from None
            error.add_note(f"{command}: this is a fault of the program; {_rest(before)}")
            raise
        finally:
            if distributed.rank() == 0 and (words := finish(patience)):
                print(f"{command}: {words}", file=sys.stderr)


def _prepare(command: str, given: Mapping[str, str]) -> None:
    """Prepares the store, and cleans up what killed processes left in it."""
    try:
        with told():
            choose(given)
            prepare_tracking()
    except TrackingError as error:
        fail(command, error.problems)


def _rest(before: int) -> str:
    """What exists now, and how to go on, if `before` runs had begun before the work."""
    return KEPT if begun() > before else NOTHING


def _lines(command: str, *lines: str) -> str:
    return hidden("\n".join(f"{command}: {line}" for line in lines))


def print_without_passwords(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error that nobody caught, as Python does, but without passwords."""
    sys.stderr.write(hidden("".join(traceback.format_exception(kind, error, trace))))


def refuse_torchrun(command: str) -> None:
    """Exits with code 2 if `torchrun` started this command, which starts its own workers for its trainings."""
    if distributed.launched():
        fail(command, ["torchrun: cannot start this command; use it with `python -m experiments.train`"])
