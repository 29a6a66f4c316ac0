"""`tune ray`: places the workers of a study on a Ray cluster, with shares of GPUs; replaces those that die.

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
from ..system.secrets import without_password
from .addresses import StudyError, StudyStopped

if TYPE_CHECKING:
    from .local_workers import Watch


RESTARTS = 100  # of one worker, when its process or machine dies
CONNECT_S = 5.0  # to wait for the answer of a cluster
LOOK_S = 1.0  # between two looks at what the workers have done
STOP_S = 30.0  # for workers to close their runs
ASK_AGAIN_S = 10.0  # between two requests to stop
# Beginnings of the environment variables that workers need for MLflow and PostgreSQL.
PASSED_ON = ("MLFLOW_", "CAMPARISON_", "PG")


@dataclass(frozen=True)
class Placement:
    """The number of workers, and the CPU cores and GPUs of each; `gpus` may be a share such as 0.5."""

    workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpu = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} worker{'s' * (self.workers > 1)} with {self.cpus:g} CPU{gpu} each"

    @property
    def machine(self) -> dict[str, str]:
        """The options of a training for such a worker: `threads` and `device`."""
        return {"threads": str(max(1, int(self.cpus))), "device": "auto" if self.gpus else "cpu"}


def refuse_without_ray() -> None:
    """Checks that Ray is installed.

    Raises:
        StudyError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: F401
    except ImportError:
        raise StudyError("Ray is not installed: pip install '.[ray]'") from None


def place(study: str, storage: str, placement: Placement, address: str | None, data_dir: str) -> None:
    """Keeps the workers running until nothing is left to do, and prints a line for every training that is done.

    Args:
        address: of the cluster, `auto`, or None for a new cluster on this machine.

    Raises:
        StudyError, TrackingError: work is not possible, here or on the named machine.
    """
    import ray

    from ..system.progress import shown
    from .local_workers import Watch, reopened
    from .storage import telling_of_loss

    ledger, settings = reopened(study, storage, {})
    refuse_silent_address(address)
    try:
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"address={address}: no Ray cluster was found there ({str(error).splitlines()[0]})") from error
    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        machines = {node["NodeManagerHostname"] for node in nodes if node["Alive"]}
        refuse_local_stores(storage, os.environ["MLFLOW_TRACKING_URI"], len(machines))
        print(f"study {study}: {placement}, on {len(machines)} machine{'s' * (len(machines) > 1)}", flush=True)
        if placement.gpus > max(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]):
            print(f"no machine of the cluster has {placement.gpus:g} GPU; the workers wait for one", flush=True)
        # As an argument: Ray writes the environment of a task into its logs, and the passwords with it.
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
    """Checks that something answers at HOST:PORT; Ray itself would try for minutes.

    Raises:
        StudyError: nothing answers.
    """
    match = re.fullmatch(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)", address or "")
    try:
        if match:
            socket.create_connection((match["host"], int(match["port"])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"address={address}: no Ray cluster answers there ({error})") from None


def refuse_local_stores(storage: str, tracking_uri: str, machines: int) -> None:
    """Checks that all machines can reach the storage of the study and MLflow.

    Raises:
        StudyError: one of the two is a file on this machine, and there are several machines.
    """
    if machines > 1 and storage.startswith("sqlite"):
        raise StudyError(
            f"storage={without_password(storage)}: {machines} machines cannot share a file; use PostgreSQL"
        )
    if machines > 1 and tracking_uri.startswith(("sqlite", "file", "/")):
        raise StudyError(
            f"MLFLOW_TRACKING_URI={tracking_uri}: {machines} machines cannot share a file; start an MLflow server"
        )


def work(study: str, storage: str, machine: Mapping[str, str], folder: str, environment: Mapping[str, str]) -> None:
    """The task that Ray runs: the same worker as `tune worker`, in the folder of the project on that machine.

    Raises:
        StudyError, TrackingError: with the name of the machine.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise StudyError(
            f"worker on {socket.gethostname()}: {error}; the project must be in the same folder there"
        ) from None
    os.environ.update(environment)
    from ..system.allocator import keep_freed_memory
    from ..tracking.lifetime import prepare_tracking
    from ..tracking.outbox import wait_s
    from ..tracking.sender import finish
    from .local_workers import work_alone

    try:
        keep_freed_memory()
        prepare_tracking()
        work_alone(study, storage, machine, quiet=True)
        finish(wait_s())
    except (CannotStart, Failed) as error:
        kind = Failed if isinstance(error, Failed) else CannotStart
        raise kind(f"worker on {socket.gethostname()}: {'; '.join(str(error).splitlines())}") from None


def _keep_running(start: Callable[[], Any], workers: int, watch: "Watch") -> None:
    """Runs the workers until all have found nothing more to do; on an error it stops them, so that runs are closed."""
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
    """Interrupts the workers, so that they close their runs; several times, because an interrupt can be lost."""
    import ray

    end = time.monotonic() + STOP_S
    while workers and time.monotonic() < end:
        for worker in workers:
            ray.cancel(worker)
        _, workers = ray.wait(workers, num_returns=len(workers), timeout=ASK_AGAIN_S)


def _is_done(worker: Any) -> bool:
    """Whether a worker ended because nothing was left to do; False if it was stopped, such as with its machine.

    Raises:
        StudyError, TrackingError: the worker gave up.
    """
    import ray

    try:
        ray.get(worker)
    except ray.exceptions.TaskCancelledError:
        return False
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise StudyStopped(f"a worker has died {RESTARTS} times; see the logs of Ray for the reason") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CannotStart | Failed):
            raise error.cause from None
        raise
    return True
