"""Sends one journal to MLflow, entry by entry. Every entry can be sent twice: the second time changes nothing.

Parameters, tags, files and the end of a run are idempotent in MLflow, and so are metrics, because their time stamps are
in the journal: MLflow's databases keep one row for equal key, step, time and value. Runs and models get a new id each
time, so they carry a tag from the journal, and are searched by it when it is not certain that they are new.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from . import outbox, views
from .client import (
    COMMIT,
    ERROR,
    FINGERPRINT,
    METRICS_PER_CALL,
    NOTE,
    PID,
    PROCESS_START,
    SETTINGS_PER_CALL,
    STATUS,
    chunks,
    is_deleted,
    of_finished,
    one_line,
    set_tags,
)
from .failures import is_answer, reason
from .journal import Entry, Journal, Line, Sent, damaged
from .models import send_model
from .store import made_experiment
from .waiting import contents

KILLED = "the process ended without an error message (it was killed, or the machine stopped)"
TEXTS = {".json", ".html", ".txt", ".toml", ".csv"}  # files that may hold the id of a run
Say = Callable[[str], None]


class Away(Exception):
    """MLflow does not take an entry now; the message is the reason."""


class NotYet(Away):
    """Another run must be sent before the entry."""


class Sending:
    """Sends the entries of one journal. `refusal` is the reason for which MLflow refused an entry for good.

    `is_new`: this process has just made the journal, so nothing of it can be in MLflow.
    """

    def __init__(self, journal: Journal, say: Say, *, is_new: bool = False) -> None:
        self.journal, self.say = journal, say
        self.client = MlflowClient()
        self.name = str((outbox.beginning(journal) or {}).get("name", "notes on other runs"))
        self.refusal = ""
        self.gone = False
        self.made: Run | None = None  # the run as it was when this process began or opened it
        self._is_new = is_new
        self.doubtful = not is_new
        self._sent = journal.sent
        self._points: dict[str, set[tuple[int, str]]] = {}

    @property
    def run_id(self) -> str:
        """The id of the run in MLflow.

        Raises:
            Away: MLflow has not given it one.
        """
        if self._sent.run is None:
            raise Away(f"the run of {self.journal.folder} has not begun")
        return self._sent.run

    @property
    def begun(self) -> bool:
        """Whether MLflow has given the run its id."""
        return self._sent.run is not None

    @property
    def offset(self) -> int:
        """Up to where the entries are sent."""
        return self._sent.offset

    def step(self) -> bool:
        """Sends the next entry; False if there is none.

        Raises:
            Away: MLflow does not answer, or another run must be sent first.
        """
        line = next(self.journal.lines(self._sent.offset), None)
        if line is None:
            return False
        if line.entry is None:
            self.say(f"an entry of {self.journal.folder} is damaged; it is left out, the others are sent")
        elif not self.gone:
            self._try(_with_new_ids(line))
        self._sent = Sent(self._sent.run, line.end)
        self.journal.acknowledge(self._sent)
        self.doubtful = not self._is_new
        return True

    def _try(self, entry: Entry) -> None:
        try:
            _SENDERS[entry["what"]](self, entry)
        except Away:
            raise
        except Exception as error:
            self.doubtful = True
            if not is_answer(error):
                raise Away(reason(error)) from error
            self._refused(entry, error)

    def _refused(self, entry: Entry, error: Exception) -> None:
        run_id = entry.get("of") or entry.get("run") or self._sent.run
        if run_id and is_deleted(run_id):
            self.gone = "of" not in entry
            if not self.gone:
                return  # a note on a run that somebody deleted
        self.refusal = self.refusal or one_line(error)
        self.gone = self.gone or entry["what"] == "begin"

    def conclude(self) -> bool:
        """After the last entry: removes the journal; True if it did.

        A run whose process died is marked as KILLED. Its journal is kept if it was written offline, because the same
        command goes on with it.

        Raises:
            Away: MLflow does not answer.
        """
        if self.journal.is_written or self.journal.has_more:
            return False
        if not self.journal.has_ended and self.begun and not self.gone:
            if self._sent.closed:
                return False
            if self._is_left_alone():
                self._try({"what": "tags", "values": {ERROR: KILLED}})
                self._try({"what": "end", "status": "KILLED", "time": None})
            if (outbox.beginning(self.journal) or {"store": ""})["store"] is None:
                self._sent = Sent(self._sent.run, self._sent.offset, closed=True)
                self.journal.acknowledge(self._sent)
                return False
        if self.refusal and self.begun and not self.gone:
            kept = self.journal.set_aside()
            self.say(f"MLflow refuses a part of run {self._sent.run} ({self.refusal}); it is kept in {kept}")
        else:
            self.journal.remove()
        return True

    def _is_left_alone(self) -> bool:
        """Whether no other process went on with the run of the process that died."""
        try:
            run = self.client.get_run(self.run_id)
        except Exception as error:
            raise Away(reason(error)) from error
        signed = contents(self.journal).tags
        return run.info.status == "RUNNING" and all(run.data.tags.get(k) == signed.get(k) for k in (PID, PROCESS_START))

    def remember(self, made: Run) -> None:
        """Keeps the run that MLflow made or has opened."""
        self.made, self._points = made, {}
        self._sent = Sent(made.info.run_id, self._sent.offset)
        self.journal.acknowledge(self._sent)

    def about(self, run_id: str | None) -> None:
        """What follows is about a run that another journal began."""
        self._sent = Sent(run_id, self._sent.offset)

    def before(self) -> Run:
        """The run as it was when this process began to send, or opened it again."""
        self.made = self.made or self.client.get_run(self.run_id)
        return self.made

    def has_point(self, key: str, step: int, value: float) -> bool:
        """Whether the run had this value of a metric before: an attempt that goes on repeats some."""
        if key not in self.before().data.metrics:
            return False
        if key not in self._points:
            history = self.client.get_metric_history(self.run_id, key)
            self._points[key] = {(metric.step, repr(float(metric.value))) for metric in history}
        return (step, repr(float(value))) in self._points[key]


# --------------------------------------------------------------------------------------------- the ids of other runs


def _with_new_ids(line: Line) -> Entry:
    """The entry with the ids that MLflow gave.

    Raises:
        Away: it names a run that MLflow does not have yet.
    """
    assert line.entry is not None
    ids = _known_ids(set(outbox.ID.findall(line.text)))
    new: Entry = _replaced(line.entry, ids) if ids else line.entry
    return new


def _known_ids(named: set[str]) -> dict[str, str]:
    """The ids that MLflow gave to those of the named runs that had another one here.

    Raises:
        NotYet: MLflow does not have one of them yet.
    """
    if not named:
        return {}
    if missing := named & set(outbox.nameless()):
        raise NotYet(f"run {min(missing)} must be sent first")
    return {here: there for here, there in outbox.new_ids().items() if here in named}


def _replaced(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        return outbox.ID.sub(lambda found: ids.get(found[0], found[0]), value)
    if isinstance(value, list):
        return [_replaced(item, ids) for item in value]
    if isinstance(value, dict):
        return {_replaced(name, ids): item if name == "files" else _replaced(item, ids) for name, item in value.items()}
    return value


def _replace_in_files(folder: Path, ids: dict[str, str]) -> None:
    for path in folder.rglob("*"):
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            path.write_text(_replaced(text, ids), encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- entries


def _begin(sending: Sending, entry: Entry) -> None:
    client = sending.client
    if entry.get("notes"):
        sending.about(entry["run"])
        return
    if entry["run"]:
        _open_again(sending, entry["run"], entry["tags"])
        return
    parent = entry["parent"]
    experiment = client.get_run(parent).info.experiment_id if parent else experiment_of(entry)
    if sending.doubtful and entry["experiment"]:
        outbox.keep_id(entry["experiment_id"], experiment)
    if twin := _finished_twin(sending.journal, entry, experiment):
        sending.say(f"{entry['name']}: MLflow has finished run {twin} of the same training; it is not sent twice")
        outbox.keep_id(sending.journal.key, twin)
        sending.remember(client.get_run(twin))
        sending.gone = True  # none of the other entries
        return
    key = sending.journal.key
    mine = f"tags.`{outbox.KEY}` = '{key}'"
    found = client.search_runs([experiment], mine, max_results=1) if sending.doubtful else []
    made = found[0] if found else client.create_run(experiment, entry["start"], entry["tags"] | {outbox.KEY: key}, None)
    if sending.doubtful:  # the key may be known as the id of the run
        outbox.keep_id(key, made.info.run_id)
    sending.remember(made)


def experiment_of(entry: Entry) -> str:
    """The number of the experiment that the run is for; it is made if it does not exist."""
    if not entry["experiment"]:
        return str(entry["experiment_id"])
    found = MlflowClient().get_experiment_by_name(entry["experiment"])
    return str(found.experiment_id) if found else made_experiment(entry["experiment"])


def _finished_twin(journal: Journal, entry: Entry, experiment: str) -> str | None:
    """A finished run of the same training, if that of the journal is finished too."""
    fingerprint = entry["tags"].get(FINGERPRINT)
    if not fingerprint or not journal.has_ended or contents(journal).tags.get(STATUS) != "completed":
        return None
    found = MlflowClient().search_runs([experiment], of_finished(fingerprint))
    others = [run.info.run_id for run in found if run.data.tags.get(outbox.KEY) != journal.key]
    return others[0] if others and len(others) == len(found) else None


def _open_again(sending: Sending, run_id: str, tags: Mapping[str, str]) -> None:
    """A run that `mlflow run` or an earlier process began."""
    client = sending.client
    before = client.get_run(run_id).data.tags
    set_tags(run_id, {key: value for key, value in tags.items() if key != COMMIT or COMMIT not in before})
    if ERROR in before:  # left by the attempt that died
        client.delete_tag(run_id, ERROR)
    client.update_run(run_id, status="RUNNING")
    sending.remember(client.get_run(run_id))


def _reopen(sending: Sending, entry: Entry) -> None:
    _open_again(sending, sending.run_id, entry["tags"])


def _params(sending: Sending, entry: Entry) -> None:
    known = sending.before().data.params
    params = [Param(key, value) for key, value in entry["values"].items() if key not in known]
    for part in chunks(params, SETTINGS_PER_CALL):
        sending.client.log_batch(sending.run_id, params=part)


def _tags(sending: Sending, entry: Entry) -> None:
    for part in chunks([RunTag(*tag) for tag in entry["values"].items()], SETTINGS_PER_CALL):
        sending.client.log_batch(entry.get("of") or sending.run_id, tags=part)


def _metrics(sending: Sending, entry: Entry) -> None:
    new = [values for values in entry["values"] if not sending.has_point(values[0], values[2], values[1])]
    metrics = [Metric(key, float(value), entry["time"], step) for key, value, step in new]
    for part in chunks(metrics, METRICS_PER_CALL):
        sending.client.log_batch(sending.run_id, metrics=part)


def _files(sending: Sending, entry: Entry) -> None:
    folder = sending.journal.folder / entry["in"]
    lost = damaged(folder, entry["files"])
    for name in lost:
        sending.say(f"{folder / name} is damaged; it is left out, the other files are sent")
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in TEXTS]
    ids = _known_ids({run_id for text in texts for run_id in outbox.ID.findall(text)})
    if not ids and not lost:
        sending.client.log_artifacts(sending.run_id, str(folder))
        return
    with tempfile.TemporaryDirectory() as copies:
        copy = Path(shutil.copytree(folder, Path(copies, "files"), ignore=lambda at, names: []))
        for name in lost:
            (copy / name).unlink(missing_ok=True)
        _replace_in_files(copy, ids)
        sending.client.log_artifacts(sending.run_id, str(copy))


def _inputs(sending: Sending, entry: Entry) -> None:
    used = [
        DatasetInput(Dataset(**values), tags=[InputTag(MLFLOW_DATASET_CONTEXT, "training")])
        for values in entry["values"]
    ]
    sending.client.log_inputs(sending.run_id, used)


def _model(sending: Sending, entry: Entry) -> None:
    folder = sending.journal.folder / entry["in"]
    if damaged(folder, entry["files"]):
        sending.say(f"the model in {folder} is damaged; it is left out, everything else is sent")
        return
    mark = (outbox.KEY, f"{sending.run_id}/{entry['step']}")
    look = sending.doubtful or bool((outbox.beginning(sending.journal) or {}).get("run"))
    send_model(sending.run_id, folder, entry["step"], entry["tags"], mark, look=look)


def _end(sending: Sending, entry: Entry) -> None:
    sending.client.set_terminated(sending.run_id, entry["status"], entry["time"])


def _view(sending: Sending, entry: Entry) -> None:
    experiment, tag = entry["experiment"], entry["tag"]
    view = views.View(entry["name"], entry["state"])
    sending.client.set_experiment_tag(experiment, tag, views.pack(view, entry["time"]))
    tags = sending.client.get_experiment(experiment).tags
    sending.client.set_experiment_tag(experiment, NOTE, views.note(experiment, tags, newest=tag))


_SENDERS: dict[str, Callable[[Sending, Entry], None]] = {
    "begin": _begin,
    "reopen": _reopen,
    "left": lambda sending, entry: None,
    "params": _params,
    "tags": _tags,
    "metrics": _metrics,
    "files": _files,
    "inputs": _inputs,
    "model": _model,
    "end": _end,
    "view": _view,
}
