"""What every entry point does around its work: the store made ready, problems told in a line each, exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CannotStart, Failed
from .settings.command_line import fail
from .system.allocator import keep_freed_memory
from .tracking.lifetime import sweep_stale
from .tracking.locations import TrackingError
from .tracking.store import prepare_store
from .training import distributed

KEPT = "finished runs are kept, of a longer training its last checkpoint; the same command carries on from them"


@contextmanager
def at_work(command: str) -> Iterator[None]:
    """Exit code 2 where nothing could be started, 1 where something failed on the way, 130 after Ctrl-C.

    Of several processes that train together the first has the store and the word. What keeps a machine from starting,
    such as its data, the first one there tells.
    """
    keep_freed_memory()
    if distributed.rank() == 0:
        try:
            prepare_store()
            sweep_stale()
        except TrackingError as error:
            fail(command, [str(error)])
    try:
        yield
    except CannotStart as error:
        if distributed.local_rank():
            raise SystemExit(2) from None
        fail(command, str(error).splitlines())
    except Failed as error:
        raise SystemExit(1 if distributed.rank() else f"{command}: {error}\n{command}: {KEPT}") from None
    except KeyboardInterrupt:
        if distributed.rank() == 0:
            print(f"\n{command}: stopped; {KEPT}", file=sys.stderr)
        raise SystemExit(130) from None


def refuse_torchrun(command: str) -> None:
    """Ends with 2 where `torchrun` has started this: what trains several networks has workers of its own."""
    if distributed.launched():
        fail(
            command, ["torchrun: trains one network in several processes; start `python -m experiments.train` with it"]
        )
