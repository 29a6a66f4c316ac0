"""The lifetime of a run: opens runs, closes them with the right status, and cleans up after processes that died."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.git_utils import get_git_commit

from ..system.processes import here, is_alive, started
from .client import (
    COMMIT,
    ERROR,
    HOST,
    KIND,
    MACHINE,
    PARENT,
    PID,
    PROCESS_START,
    RUN_NAME,
    STATUS,
    note_begun,
    one_line,
    set_tags,
)
from .locations import TrackingError
from .records import Record
from .signals import Terminated, deaf_to_signals, terminated_by_signal
from .store import current_experiment
from .writing import Run


class StoppedEarly(Exception):
    """The run is stopped because it promises too little: it ends as FINISHED, but does not count as completed."""


class GoesOnElsewhere(Exception):
    """Another process writes this run now, so it is left unchanged."""


@contextlib.contextmanager
def open_run(
    *,
    kind: str,
    name: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    parent_run_id: str | None = None,
    again: str | None = None,
    before_writing: Callable[[], None] = lambda: None,
) -> Iterator[Run]:
    """A run to log into. At the end it is closed: FINISHED and completed, FAILED with the error as a tag, or KILLED.

    If `mlflow run` opened a run for this program, the first call uses that run. Otherwise it is a new run, below the
    run `parent_run_id` if given, in the experiment that the environment names or in Default. A child whose process died
    is opened `again` by its run id, if it still exists. `before_writing` is called before records are logged; if it
    raises, the block ends and nothing is written. Runs can be nested: a parent stays open while its children are opened
    one after another. Call `prepare_store` first.

    Raises:
        TrackingError: the run, its parent or the experiment does not exist.
    """
    run = _start(kind, name, tags, parent_run_id, again)
    note_begun(run.id)
    run.before_writing = before_writing
    with terminated_by_signal():
        try:
            yield run
        except GoesOnElsewhere:
            raise
        except StoppedEarly:
            set_tags(run.id, {STATUS: "stopped early"})
            MlflowClient().set_terminated(run.id, "FINISHED")
            raise
        except BaseException as error:
            with deaf_to_signals():
                _close_failed(run.id, error)
            raise
        set_tags(run.id, {STATUS: "completed"})
        MlflowClient().set_terminated(run.id, "FINISHED")


def _start(kind: str, name: str, tags: Mapping[str, str], parent_run_id: str | None, again: str | None) -> Run:
    own = {
        **tags,
        KIND: kind,
        STATUS: "started",
        RUN_NAME: name,
        HOST: socket.gethostname(),
        MACHINE: here(),
        PID: str(os.getpid()),
        PROCESS_START: started(os.getpid()),
    }
    client = MlflowClient()
    opened = None if parent_run_id else os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        if parent_run_id:
            own[PARENT] = parent_run_id
        if opened := opened or (again if again and is_there(again) else None):
            before = client.get_run(opened).data.tags
            set_tags(opened, own | _commit(before))
            if ERROR in before:  # left by the attempt that died
                client.delete_tag(opened, ERROR)
            client.update_run(opened, status="RUNNING")
            return Run(client.get_run(opened))
        experiment_id = client.get_run(parent_run_id).info.experiment_id if parent_run_id else current_experiment()
        context = resolve_tags(own)
        return Run(client.create_run(experiment_id, tags=context | _commit(context), run_name=name))
    except MlflowException as error:
        raise TrackingError(f"the run {name!r} cannot be opened: {one_line(error)}") from error


def is_there(run_id: str) -> bool:
    """Whether there is a run with this id that is not deleted."""
    try:
        return bool(MlflowClient().get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _commit(tags: Mapping[str, str]) -> dict[str, str]:
    commit = None if COMMIT in tags else get_git_commit(str(Path.cwd()))
    return {COMMIT: commit} if commit else {}


def _close_failed(run_id: str, error: BaseException) -> None:
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    try:
        set_tags(run_id, {ERROR: one_line(error)})
        MlflowClient().set_terminated(run_id, "KILLED" if killed else "FAILED")
    except Exception as second:
        error.add_note(
            f"run {run_id} is still RUNNING in the store, because its end could not be written: {one_line(second)}"
        )


def sweep_stale() -> list[str]:
    """Marks runs as KILLED that a dead process of this machine left RUNNING, and returns their ids.

    Of a process in another container or from before a restart of the machine nobody here can know whether it is dead.
    """
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = f"attributes.status = 'RUNNING' AND tags.`{MACHINE}` = '{here()}'"
    stale = [
        run.info.run_id
        for run in client.search_runs(experiments, running)
        if not is_alive(int(run.data.tags[PID]), run.data.tags.get(PROCESS_START, ""))
    ]
    for run_id in stale:
        set_tags(run_id, {ERROR: "the process ended without an error message (it was killed, or the machine stopped)"})
        client.set_terminated(run_id, "KILLED")
    return stale


def set_parent(run_ids: Iterable[str], parent_run_id: str) -> None:
    """Puts finished or interrupted runs below another run; skips runs that were deleted in the meantime."""
    for run_id in run_ids:
        if is_there(run_id):
            set_tags(run_id, {PARENT: parent_run_id})


def mark_confirmed(run_id: str, study: str, stage: int, candidate: str) -> None:
    """Records that the run confirms a candidate of the study; one run can confirm candidates of several studies."""
    set_tags(run_id, {confirms(study): f"{stage} {candidate}"})


def confirms(study: str) -> str:
    """The name of the tag of runs that confirm a candidate of the study; its value is the stage and the candidate."""
    return f"camparison.confirms.{study}"


def experiment_of(run_id: str | None) -> str | None:
    """The experiment of a run; None if there is no run with this id."""
    return MlflowClient().get_run(run_id).info.experiment_id if run_id and is_there(run_id) else None


def append_records(run_id: str, records: Iterable[Record]) -> None:
    """Writes more records into a run, which may have ended; does not change its status."""
    Run(MlflowClient().get_run(run_id)).log(records)
