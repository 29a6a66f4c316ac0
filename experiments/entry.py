"""What every entry point does around its work: the store made ready, problems told in a line each, exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from experiments import tracking
from experiments.allocator import keep_freed_memory
from experiments.checkpoints import CheckpointError
from experiments.config import SettingsError, fail
from experiments.data import DataError
from experiments.store import TrackingError
from experiments.training import TrainingDiverged

KEPT = "finished runs are kept, and the same command carries on from them"


@contextmanager
def at_work(command: str) -> Iterator[None]:
    """Exit code 2 where nothing could be started, 1 where something failed on the way, 130 after Ctrl-C."""
    keep_freed_memory()
    try:
        tracking.prepare_store()
        tracking.sweep_stale()
    except TrackingError as error:
        fail(command, [str(error)])
    try:
        yield
    except (SettingsError, DataError, CheckpointError) as error:
        fail(command, str(error).splitlines())
    except (TrainingDiverged, TrackingError) as error:
        raise SystemExit(f"{command}: {error}\n{command}: {KEPT}") from None
    except KeyboardInterrupt:
        print(f"\n{command}: stopped; {KEPT}", file=sys.stderr)
        raise SystemExit(130) from None
