"""What every entry point does around its work: the store made ready, problems told in a line each, exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from experiments import parallel, tracking
from experiments.allocator import keep_freed_memory
from experiments.checkpoints import CheckpointError
from experiments.config import SettingsError, fail
from experiments.data import DataError
from experiments.parallel import ProcessLost
from experiments.store import TrackingError
from experiments.training import TrainingDiverged
from experiments.tune_settings import StudyError

KEPT = "finished runs are kept, of a longer training its last checkpoint; the same command carries on from them"


@contextmanager
def at_work(command: str) -> Iterator[None]:
    """Exit code 2 where nothing could be started, 1 where something failed on the way, 130 after Ctrl-C.

    Of several processes that train together the first has the store and the word. What keeps a machine from starting,
    such as its data, the first one there tells.
    """
    keep_freed_memory()
    if parallel.rank() == 0:
        try:
            tracking.prepare_store()
            tracking.sweep_stale()
        except TrackingError as error:
            fail(command, [str(error)])
    try:
        yield
    except (SettingsError, DataError, CheckpointError, StudyError) as error:
        if parallel.local_rank():
            raise SystemExit(2) from None
        fail(command, str(error).splitlines())
    except (TrainingDiverged, TrackingError, ProcessLost) as error:
        raise SystemExit(1 if parallel.rank() else f"{command}: {error}\n{command}: {KEPT}") from None
    except KeyboardInterrupt:
        if parallel.rank() == 0:
            print(f"\n{command}: stopped; {KEPT}", file=sys.stderr)
        raise SystemExit(130) from None


def refuse_torchrun(command: str) -> None:
    """Ends with 2 where `torchrun` has started this: what trains several networks has workers of its own."""
    if parallel.launched():
        fail(
            command, ["torchrun: trains one network in several processes; start `python -m experiments.train` with it"]
        )
