"""What every entry point does around its work: prepare the store, print each problem in one line, set the exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CannotStart, Failed
from .settings.command_line import fail
from .system.allocator import keep_freed_memory
from .system.terminal import INTERRUPTED, interruptible, say_stopped
from .tracking.lifetime import sweep_stale
from .tracking.locations import TrackingError
from .tracking.signals import Terminated
from .tracking.store import prepare_store
from .training import distributed

KEPT = "finished runs and the last checkpoint of a long training are kept; run the same command again to continue"


@contextmanager
def at_work(command: str, *, last_words: bool = True) -> Iterator[None]:
    """Exits with code 2 if the work cannot start, 1 if it fails on the way, and 130 after Ctrl-C.

    When several processes train together, only rank 0 writes and prints. Errors that keep one machine from starting,
    such as missing data, are printed by the first process on that machine. Without `last_words` nothing is printed
    about a request to end (SIGTERM), because the process that asked for it says so itself.
    """
    keep_freed_memory()
    with interruptible():
        try:
            if distributed.rank() == 0:
                _prepare(command)
            yield
        except CannotStart as error:
            if distributed.local_rank():
                raise SystemExit(2) from None
            fail(command, error.problems)
        except Failed as error:
            raise SystemExit(1 if distributed.rank() else f"{command}: {error}\n{command}: {KEPT}") from None
        except KeyboardInterrupt:
            say_stopped(command, f"stopped; {KEPT}")
            raise SystemExit(INTERRUPTED) from None
        except Terminated as error:
            if last_words:
                say_stopped(command, f"ended by {signal.Signals(int(error.code or 0) - 128).name}; {KEPT}")
            raise


def _prepare(command: str) -> None:
    try:
        prepare_store()
        sweep_stale()
    except TrackingError as error:
        fail(command, error.problems)


def refuse_torchrun(command: str) -> None:
    """Exits with code 2 if `torchrun` started this command, which starts its own workers for its trainings."""
    if distributed.launched():
        fail(command, ["torchrun: cannot start this command; use it with `python -m experiments.train`"])
