"""The lifetime of a run: opens runs, closes them with the right status, and cleans up after processes that died."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.git_utils import get_git_commit

from ..system.processes import here, is_alive, started
from ..system.waiting import locked
from . import outbox
from .client import (
    COMMIT,
    ERROR,
    FINGERPRINT,
    HOST,
    KIND,
    MACHINE,
    PARENT,
    PID,
    PROCESS_START,
    RUN_NAME,
    STATUS,
    STUDY,
    note_begun,
    one_line,
    set_tags,
)
from .failures import found_unless_away, is_answer, is_away
from .journal import Entry, Journal
from .locations import TrackingError
from .sender import pick_up, sender
from .sending import KILLED, Sending
from .signals import Terminated, deaf_to_signals, terminated_by_signal
from .store import current_experiment, prepare_store
from .waiting import contents
from .writing import Run, log_notes, now, store_of_new


class StoppedEarly(Exception):
    """The run is stopped because it promises too little: it ends as FINISHED, but does not count as completed."""


class GoesOnElsewhere(Exception):
    """Another process writes this run now, so it is left unchanged."""


class RunDeleted(TrackingError):
    """Somebody deleted the run in MLflow while it was written."""


@contextlib.contextmanager
def open_run(
    *,
    kind: str,
    name: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    parent_run_id: str | None = None,
    again: str | None = None,
    goes_on: bool = False,
    before_writing: Callable[[], None] = lambda: None,
) -> Iterator[Run]:
    """A run to log into. At the end it is closed: FINISHED and completed, FAILED with the error as a tag, or KILLED.

    If `mlflow run` opened a run for this program, the first call uses that run. Otherwise it is a new run, below the
    run `parent_run_id` if given, in the experiment that the environment names or in Default. A child whose process died
    is opened `again` by its run id, if it still exists. With `goes_on`, the newest run with the same fingerprint that
    was killed is opened again: several jobs of a cluster make one run. `before_writing` is called before records are
    logged; if it raises, the block ends and nothing is written. Runs can be nested: a parent stays open while its
    children are opened one after another. Call `prepare_store` first.

    What is logged goes into the outbox first, and from there to MLflow. The end of the run waits until MLflow has
    everything. If MLflow is away, nothing waits: the run stays in the outbox, where it can be read.

    Raises:
        TrackingError: the run, its parent or the experiment does not exist.
        RunDeleted: somebody deleted the run meanwhile.
    """
    run, sending = _start(kind, name, tags, parent_run_id, again, goes_on=goes_on)
    note_begun(run.id)
    run.before_writing = before_writing
    with terminated_by_signal():
        try:
            yield run
        except GoesOnElsewhere:
            _close(run, [{"what": "left"}])
            raise
        except StoppedEarly:
            _close(run, _ended("FINISHED", {STATUS: "stopped early"}))
            raise
        except BaseException as error:
            with deaf_to_signals():
                _close_failed(run, error)
            raise
        _close(run, _ended("FINISHED", {STATUS: "completed"}))
        _check_taken(run, sending)


def _start(
    kind: str, name: str, tags: Mapping[str, str], parent_run_id: str | None, again: str | None, *, goes_on: bool
) -> tuple[Run, Sending | None]:
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
    opened = None if parent_run_id else os.environ.pop("MLFLOW_RUN_ID", None)
    if parent_run_id:
        own[PARENT] = parent_run_id
    if before := _interrupted(own, again):
        return _go_on(before, own), None
    opened = opened or (again if again and is_there(again) else None)
    entry = {"what": "begin", "parent": parent_run_id, "name": name, "start": now(), "store": store_of_new()}
    with _killed(own, is_wanted=goes_on and not opened) as killed:
        opened = opened or killed
        context = own if opened else resolve_tags(own)
        tags = context if COMMIT in context else context | _commit()
        return _begin(entry | {"run": opened, "tags": tags} | _experiment(parent_run_id))


@contextlib.contextmanager
def _killed(own: Mapping[str, str], *, is_wanted: bool) -> Iterator[str | None]:
    """The newest run in MLflow of the same training that was killed; within the block nobody else opens it again."""
    if not is_wanted or outbox.is_offline() or sender().away:
        yield None
        return
    outbox.folder().mkdir(parents=True, exist_ok=True)
    same = " AND ".join(f"tags.`{key}` = '{own[key]}'" for key in (KIND, STATUS, FINGERPRINT))
    killed = f"{same} AND attributes.status = 'KILLED'"
    with locked(outbox.folder() / "again.lock", "the run that goes on"):
        found = found_unless_away(lambda: MlflowClient().search_runs([current_experiment()], killed))
        # A child of a comparison stays one, and a run of its own does, too. Studies open their runs themselves.
        alike = [run for run in found if (PARENT in run.data.tags) == (PARENT in own) and STUDY not in run.data.tags]
        yield alike[0].info.run_id if alike else None


def _begin(entry: Entry) -> tuple[Run, Sending | None]:
    journal = outbox.new_journal(entry)
    if outbox.is_offline():
        return Run(journal, entry["run"] or journal.key, entry["experiment_id"]), None
    sending = Sending(journal, sender().say, is_new=True)
    sender().begin(sending)
    if sending.refusal:
        journal.close()
        sender().wake()
        raise TrackingError(f"the run {entry['name']!r} cannot be opened: {sending.refusal}")
    if made := sending.made:
        info = made.info
        return Run(journal, info.run_id, info.experiment_id, info.artifact_uri, made.data.params), sending
    return Run(journal, entry["run"] or journal.key, entry["experiment_id"]), sending


def _experiment(parent_run_id: str | None) -> dict[str, str | None]:
    """The experiment that the environment names, and its number; a stand-in, if MLflow alone knows the number."""
    if parent_run_id and (parent := outbox.of_run(parent_run_id)) and (begin := outbox.beginning(parent)):
        return {"experiment": begin["experiment"], "experiment_id": begin["experiment_id"]}
    number, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name and not number:
        return {"experiment": name, "experiment_id": outbox.stand_in(name)}
    return {"experiment": None, "experiment_id": number or "0"}


def _interrupted(own: Mapping[str, str], again: str | None) -> Journal | None:
    """A journal in the outbox, open for writing, of the same training, which an earlier process did not complete."""
    if not outbox.is_offline():
        return None
    for journal in outbox.journals():
        found = contents(journal)
        same = found.tags.get(FINGERPRINT) == own.get(FINGERPRINT, "none") and found.tags.get(KIND) == own[KIND]
        if (same or found.run_id == again) and found.tags.get(STATUS) == "started" and journal.open():
            return journal
    return None


def _go_on(journal: Journal, own: Mapping[str, str]) -> Run:
    """The run of a process that died or was stopped, which is written further: several processes make one run."""
    journal.append([{"what": "reopen", "tags": dict(own)}])
    found = contents(journal)
    return Run(journal, found.run_id, found.experiment_id, params=found.params, metrics=found.metrics)


def _ended(status: str, tags: Mapping[str, str]) -> list[Entry]:
    return [{"what": "tags", "values": dict(tags)}, {"what": "end", "status": status, "time": now()}]


def _close(run: Run, entries: Sequence[Entry]) -> None:
    """Writes the end of the run, and waits until MLflow has it, unless it is away."""
    try:
        run.append(entries)
    finally:
        run.journal.close()
    if not outbox.is_offline():
        sender().wake()
        sender().flush()


def _close_failed(run: Run, error: BaseException) -> None:
    status = "KILLED" if isinstance(error, KeyboardInterrupt | Terminated) else "FAILED"
    try:
        _close(run, _ended(status, {ERROR: one_line(error)}))
    except Exception as second:
        error.add_note(f"the end of run {run.id} could not be written, so it is RUNNING: {one_line(second)}")


def _check_taken(run: Run, sending: Sending | None) -> None:
    if sending and sending.gone:
        raise RunDeleted(f"run {run.id} was deleted in MLflow while it was written, so its results are not there")
    if sending and sending.refusal:
        raise TrackingError(f"MLflow refuses a record of run {run.id}: {sending.refusal}")


def is_there(run_id: str) -> bool:
    """Whether there is a run with this id that is not deleted; if MLflow is away, it is taken to be there."""
    if outbox.is_offline() or outbox.of_run(run_id):
        return True
    try:
        return bool(MlflowClient().get_run(outbox.id_now(run_id)).info.lifecycle_stage == "active")
    except MlflowException as error:
        return not is_answer(error)


def _commit() -> dict[str, str]:
    commit = get_git_commit(str(Path.cwd()))
    return {COMMIT: commit} if commit else {}


def prepare_tracking() -> None:
    """What every command does first: prepares the store, sends what lies in the outbox, marks runs of dead processes.

    Raises:
        TrackingError: the store cannot be used.
    """
    if not outbox.is_offline():
        prepare_store()
        pick_up()
    sweep_stale()


def sweep_stale() -> list[str]:
    """Marks runs as KILLED that a dead process of this machine left RUNNING, and returns their ids.

    Of a process in another container or from before a restart of the machine nobody here can know whether it is dead.
    Runs whose end lies in the outbox are left out. Does nothing while MLflow is away.
    """
    if outbox.is_offline() or sender().away:
        return []
    client = MlflowClient()
    running = f"attributes.status = 'RUNNING' AND tags.`{MACHINE}` = '{here()}'"
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, running)
        stale = [run.info.run_id for run in found if _is_stale(run.data.tags) and not _has_ended(run.info.run_id)]
        for run_id in stale:
            set_tags(run_id, {ERROR: KILLED})
            client.set_terminated(run_id, "KILLED")
    except MlflowException as error:
        if not is_away(error):
            raise
        return []
    return stale


def _has_ended(run_id: str) -> bool:
    journal = outbox.of_run(run_id)
    return journal is not None and journal.has_ended


def _is_stale(tags: Mapping[str, str]) -> bool:
    return not is_alive(int(tags[PID]), tags.get(PROCESS_START, ""))


def set_parent(run_ids: Iterable[str], parent_run_id: str) -> None:
    """Puts finished or interrupted runs below another run; skips runs that were deleted in the meantime."""
    tags = {PARENT: parent_run_id}
    if entries := [{"what": "tags", "of": run_id, "values": tags} for run_id in run_ids]:
        log_notes(entries)


def mark_confirmed(run_id: str, study: str, stage: int, candidate: str) -> None:
    """Records that the run confirms a candidate of the study; one run can confirm candidates of several studies."""
    log_notes([{"what": "tags", "of": run_id, "values": {confirms(study): f"{stage} {candidate}"}}])


def confirms(study: str) -> str:
    """The name of the tag of runs that confirm a candidate of the study; its value is the stage and the candidate."""
    return f"camparison.confirms.{study}"


def experiment_of(run_id: str | None) -> str | None:
    """The experiment of a run; None if there is no run with this id, or MLflow is away."""
    if not run_id:
        return None
    if journal := outbox.of_run(run_id):
        return contents(journal).experiment_id
    try:
        return None if outbox.is_offline() else str(MlflowClient().get_run(outbox.id_now(run_id)).info.experiment_id)
    except MlflowException:
        return None
