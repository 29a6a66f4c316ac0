"""Places a study's workers on a Ray cluster: shares of GPUs, and a new worker for one that dies with its machine.

python -m experiments.tune ray --study cutout --storage postgresql://user@host/studies --workers 8 --gpus 0.5
"""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CannotStart, Failed
from .addresses import StudyError, without_password

if TYPE_CHECKING:
    from .workers import Watch


RESTARTS = 100  # of one worker whose process or machine dies
CONNECT_S = 5.0  # to wait for a cluster that does not answer
LOOK_S = 1.0  # between two looks at what the workers have done
STOP_S, ASK_AGAIN_S = 30.0, 10.0  # for workers to close their runs
PASSED_ON = ("MLFLOW_", "PG")  # begin the names of what workers need to reach MLflow and PostgreSQL


@dataclass(frozen=True)
class Placement:
    """How many workers, and what of a machine each has: CPU cores, and GPUs or a share of one."""

    workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpu = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} worker{'s' * (self.workers > 1)} with {self.cpus:g} CPU{gpu} each"

    @property
    def machine(self) -> dict[str, str]:
        """The options of a training that follow."""
        return {"threads": str(max(1, int(self.cpus))), "device": "auto" if self.gpus else "cpu"}


def refuse_without_ray() -> None:
    """Checks that Ray is installed.

    Raises:
        StudyError: it is not.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: F401
    except ImportError:
        raise StudyError("Ray is not installed: pip install '.[ray]'") from None


def place(study: str, storage: str, placement: Placement, address: str | None, data_dir: str) -> None:
    """Keeps the workers running until the study owes nothing more, and tells of every training that is done.

    Raises:
        StudyError, TrackingError: the study cannot be worked on, here or on one of the machines, which is named.
    """
    import ray

    from ..system.progress import shown
    from .storage import telling_of_loss
    from .workers import Watch, reopened

    ledger, settings = reopened(study, storage, {})
    refuse_silent_address(address)
    try:
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"address={address}: no Ray cluster there ({str(error).splitlines()[0]})") from error
    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        machines = {node["NodeManagerHostname"] for node in nodes if node["Alive"]}
        refuse_local_stores(storage, os.environ["MLFLOW_TRACKING_URI"], len(machines))
        print(f"study {study}: {placement}, on {len(machines)} machine{'s' * (len(machines) > 1)}", flush=True)
        if placement.gpus > max(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]):
            print("no machine of the cluster has so many GPUs now: the workers wait for one", flush=True)
        # As arguments, because Ray writes a task's environment into its logs, and with it the passwords.
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        machine = placement.machine | {"data_dir": data_dir}
        task = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=RESTARTS)(work)
        with telling_of_loss(storage), shown(ledger.planned) as reporter:
            _keep_running(
                lambda: task.remote(study, storage, machine, str(Path.cwd()), environment),
                placement.workers,
                Watch(ledger, settings, reporter),
            )
    finally:
        ray.shutdown()


def refuse_silent_address(address: str | None) -> None:
    """Returns where something answers at HOST:PORT, which Ray itself would try for minutes.

    Raises:
        StudyError: nothing does.
    """
    match = re.fullmatch(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)", address or "")
    try:
        if match:
            socket.create_connection((match["host"], int(match["port"])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"address={address}: no Ray cluster answers there ({error})") from None


def refuse_local_stores(storage: str, tracking_uri: str, machines: int) -> None:
    """Returns where all machines reach the study and MLflow.

    Raises:
        StudyError: one of them is a file of this machine.
    """
    if machines > 1 and storage.startswith("sqlite"):
        raise StudyError(
            f"storage={without_password(storage)}: {machines} machines cannot share a file; take PostgreSQL"
        )
    if machines > 1 and tracking_uri.startswith(("sqlite", "file", "/")):
        raise StudyError(
            f"MLFLOW_TRACKING_URI={tracking_uri}: {machines} machines cannot share a file; start an MLflow server"
        )


def work(study: str, storage: str, machine: Mapping[str, str], folder: str, environment: Mapping[str, str]) -> None:
    """What Ray runs: the same worker as `tune worker`, in the project's folder of that machine.

    Raises:
        StudyError, TrackingError: with the machine's name.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise StudyError(f"worker on {socket.gethostname()}: {error}; the project has to lie there too") from None
    os.environ.update(environment)
    from ..system.allocator import keep_freed_memory
    from ..tracking.lifetime import sweep_stale
    from ..tracking.store import prepare_store
    from .workers import work_alone

    try:
        keep_freed_memory()
        prepare_store()
        sweep_stale()
        work_alone(study, storage, machine, quiet=True)
    except (CannotStart, Failed) as error:
        kind = Failed if isinstance(error, Failed) else CannotStart
        raise kind(f"worker on {socket.gethostname()}: {'; '.join(str(error).splitlines())}") from None


def _keep_running(start: Callable[[], Any], workers: int, watch: "Watch") -> None:
    """Returns when all workers have found nothing more to do; cancels them on the way out, so that runs are closed."""
    import ray

    running = [start() for _ in range(workers)]
    try:
        while running:
            ended, running = ray.wait(running, timeout=LOOK_S)
            watch.look()
            running += [start() for worker in ended if not _is_done(worker)]
    finally:
        _stop(running)


def _stop(workers: list[Any]) -> None:
    """Interrupts the workers, so that they close their runs; asks again, for an interrupt in a callback is lost."""
    import ray

    end = time.monotonic() + STOP_S
    while workers and time.monotonic() < end:
        for worker in workers:
            ray.cancel(worker)
        _, workers = ray.wait(workers, num_returns=len(workers), timeout=ASK_AGAIN_S)


def _is_done(worker: Any) -> bool:
    """Whether a worker that ended has done all; False where it was asked to end, as by a machine that goes down.

    Raises:
        StudyError, TrackingError: it gave up.
    """
    import ray

    try:
        ray.get(worker)
    except ray.exceptions.TaskCancelledError:
        return False
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise StudyError(f"a worker has died {RESTARTS} times; Ray's logs say why") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CannotStart | Failed):
            raise error.cause from None
        raise
    return True
