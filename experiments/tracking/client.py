"""Names that this suite writes into MLflow, and calls that several modules of this room use."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from ..system.secrets import hidden

KIND = "camparison.kind"
STATUS = "camparison.status"
FINGERPRINT = "camparison.fingerprint"
ERROR = "camparison.error"
HOST = "camparison.host"
MACHINE = "camparison.machine"  # host, boot and container: where the process number means something
PID = "camparison.pid"
PROCESS_START = "camparison.process_start"
STUDY = "camparison.study"
PART = "camparison.part"  # the part of a study: search, a round of the race, or final
STAGE = "camparison.stage"
CANDIDATE = "camparison.candidate"
RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"
MODEL = "model"
TRAIN = "train"
SETTINGS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits


def of_finished(fingerprint: str) -> str:
    """The filter for MLflow's search that finds the finished runs of a training."""
    return (
        f"tags.`{FINGERPRINT}` = '{fingerprint}' AND tags.`{STATUS}` = 'completed' AND attributes.status = 'FINISHED'"
    )


_begun: list[str] = []


def note_begun(run_id: str) -> None:
    """Notes that this process has begun to write a run."""
    _begun.append(run_id)


def begun() -> int:
    """How many runs this process has begun to write."""
    return len(_begun)


def one_line(error: BaseException) -> str:
    """The kind of the error and the first line of its message, without passwords."""
    lines = hidden(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:500] if lines[0] else type(error).__name__


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    for part in chunks([RunTag(key, value) for key, value in tags.items()], SETTINGS_PER_CALL):
        MlflowClient().log_batch(run_id, tags=part)


T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


@contextlib.contextmanager
def import_path_kept() -> Iterator[None]:
    """Restores the import path, where MLflow puts and leaves the code of a model that it loads."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


def is_deleted(run_id: str) -> bool:
    """Whether somebody deleted the run in MLflow."""
    try:
        return bool(MlflowClient().get_run(run_id).info.lifecycle_stage == "deleted")
    except MlflowException as error:
        return error.error_code == "RESOURCE_DOES_NOT_EXIST"
