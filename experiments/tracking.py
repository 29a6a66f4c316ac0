"""Everything MLflow: makes the store ready, writes records into runs, reads finished runs, keeps saved views.

The only module that imports mlflow. As a command it sets the store up and opens the UI:

    python -m experiments.tracking prepare | ui [--port N] | relocate
"""

import argparse
import contextlib
import copy
import difflib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import FrameType, MappingProxyType
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse


def _set_environment() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our links open the view
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # an error instead
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven, the default, are minutes of silence per call


_set_environment()

# mlflow.pyfunc checks a type hint of its own when it is imported, and warns of it.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow
    import mlflow.pyfunc
    import mlflow.pytorch
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from filelock import FileLock  # noqa: E402
from jaxtyping import UInt8  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, RunTag  # noqa: E402
from mlflow.entities import Param as RunParam  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model as ModelFormat  # noqa: E402
from mlflow.models import infer_signature  # noqa: E402
from mlflow.tracking.context.registry import resolve_tags  # noqa: E402
from mlflow.utils.git_utils import get_git_commit  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from cam_core import enlarge  # noqa: E402
from experiments import processes, store, views  # noqa: E402
from experiments.records import (  # noqa: E402
    Arrays,
    DatasetUse,
    File,
    KeyedPicture,
    Metrics,
    Model,
    Param,
    Picture,
    Record,
    Table,
    Tag,
    Text,
)
from experiments.store import TrackingError  # noqa: E402

KIND = "camparison.kind"
STATUS = "camparison.status"
FINGERPRINT = "camparison.fingerprint"
ERROR = "camparison.error"
HOST = "camparison.host"
PID = "camparison.pid"
PROCESS_START = "camparison.process_start"
STUDY = "camparison.study"
PART = "camparison.part"  # of a study: search, a round of the race, or final
STAGE = "camparison.stage"
CANDIDATE = "camparison.candidate"
RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"
MODEL = "model"
TRAIN = "train"

UI_PORT = 5000
VIEWS_IN_NOTE = 50
GRID_PIXELS = 256  # MLflow's thumbnails are this long, and enlarged to it with blur
SETTINGS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits
_KEY_IN_FILE = re.compile(r"images/(?P<key>.+?)\+step\+(?P<step>\d+)\+timestamp\+.*\.png$")


# ---------------------------------------------------------------------------------------------------------- the store


def prepare_store(root: Path | None = None) -> str:
    """The URI of the tracking store, which is ready for several processes at once when this returns.

    With nothing set it is MLflow's default, `mlflow.db` and `mlruns/` in the project folder `root` (the current one if
    not given); otherwise what MLFLOW_TRACKING_URI names. A new database is set up under a file lock, because several
    processes that do so at once leave one that no MLflow opens again. To be called first by every entry point.

    Raises:
        TrackingError: a server does not answer, the database does not open, or the runs' files lie elsewhere.
    """
    _set_environment()
    root = (root or Path.cwd()).resolve()
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not given:
        store.refuse_old_file_store(root)
    database = store.database_in(given, root) if given else store.database_of(root)
    uri = f"sqlite:///{database}" if database else given
    mlflow.set_tracking_uri(uri)
    if uri.startswith(("http://", "https://")):
        _ask_server(uri)
        return uri
    with FileLock(database.parent / store.LOCK) if database else contextlib.nullcontext():
        _open_store(uri, root)
        if database == store.database_of(root):
            store.serve_from_disk(database)
    _check_locations(database, root)
    return uri


def _ask_server(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise TrackingError(f"the MLflow server {uri} is not well: /health answers {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(
            f"no MLflow server answers at {uri} ({reason}): start it, or unset MLFLOW_TRACKING_URI to use this folder"
        ) from error


def _open_store(uri: str, root: Path) -> None:
    """The first call creates the tables; MLflow puts the files of new experiments under the folder it is made in."""
    with contextlib.chdir(root), warnings.catch_warnings():
        # MLflow 3.17's tables are declared in the manner of SQLAlchemy 2.0.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(
                f"{uri} does not open as an MLflow store: move it away to start a new one ({_one_line(error)})"
            ) from error


def _check_locations(database: Path | None, root: Path) -> None:
    experiment = _named_experiment()
    if experiment is None:
        return
    location = experiment.artifact_location
    if location.startswith("mlflow-artifacts:"):
        raise TrackingError(
            f"the files of experiment {experiment.name!r} are kept by an MLflow server: set MLFLOW_TRACKING_URI to its "
            "http address, or MLFLOW_EXPERIMENT_NAME to another experiment"
        )
    home = store.home(location, experiment.experiment_id)
    if home and database == store.database_of(root) and home.resolve() != root:
        raise TrackingError(
            f"the runs in {database} have their files recorded under {home}, but the project is now in {root}: "
            "`.venv/bin/python -m experiments.tracking relocate` records them here, or move the folder back"
        )


def relocate(root: Path | None = None) -> str:
    """One line that says what was done for a project folder that was moved or copied with its runs.

    Raises:
        TrackingError: there is no database, or nothing in it that lies elsewhere.
    """
    root = (root or Path.cwd()).resolve()
    database = store.database_of(root)
    if not database.exists():
        raise TrackingError(f"there is no {database}: nothing to relocate")
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    experiment = _named_experiment()
    home = store.home(experiment.artifact_location, experiment.experiment_id) if experiment else None
    if home is None or home.resolve() == root:
        raise TrackingError(f"the runs in {database} have their files in this folder already: nothing to relocate")
    return f"{store.move_home(database, home, root)} records moved from {home} to {root}"


def _named_experiment() -> Experiment | None:
    """The experiment that the environment names, else Default; None if it is only named and does not exist yet.

    Raises:
        TrackingError: it is deleted, or its number is unknown.
    """
    number, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
    client = MlflowClient()
    try:
        found = client.get_experiment_by_name(name) if name and not number else client.get_experiment(number or "0")
    except MlflowException as error:
        raise TrackingError(f"MLFLOW_EXPERIMENT_ID={number}: {_one_line(error)}") from error
    if found and found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {found.name!r} is deleted: set MLFLOW_EXPERIMENT_NAME to another, or restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found


def _experiment_id() -> str:
    found = _named_experiment()
    if found is None:
        # Another process may create it at this very moment.
        with contextlib.suppress(MlflowException):
            return MlflowClient().create_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
        found = _named_experiment()
    if found is None:
        raise TrackingError(f"the experiment {os.environ['MLFLOW_EXPERIMENT_NAME']!r} cannot be created")
    return str(found.experiment_id)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:500] if lines[0] else type(error).__name__


# ------------------------------------------------------------------------------------------------------ writing a run


class Run:
    """A run that is being written: `id`, `experiment_id`, `artifact_uri`."""

    def __init__(self, run: mlflow.entities.Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.artifact_uri: str = run.info.artifact_uri
        self._params = set(run.data.params)
        self.before_writing: Callable[[], None] = lambda: None

    def log(self, records: Iterable[Record]) -> None:
        """Returns when the records are written: one MLflow call for all of a kind, one for all files together.

        Parameters that the run has already keep their values: `mlflow run` writes them, as text, before the program
        starts.

        Raises:
            TypeError: something that is not a record; nothing is written then.
            TrackingError: MLflow refuses a value, as too long or as malformed.
        """
        groups: dict[Callable[[Run, list[Any]], None], list[Record]] = {}
        for record in records:
            if type(record) not in _WRITERS:
                raise TypeError(f"{type(record).__name__} is not a record that can be logged: see experiments.records")
            groups.setdefault(_WRITERS[type(record)], []).append(record)
        self.before_writing()
        try:
            for write, group in groups.items():
                write(self, group)
        except MlflowException as error:
            raise TrackingError(f"MLflow refuses what run {self.id} logs: {_one_line(error)}") from error


def _log_params(run: Run, records: list[Param]) -> None:
    new = {record.key: str(record.value) for record in records if record.key not in run._params}
    for part in _chunks([RunParam(key, value) for key, value in new.items()], SETTINGS_PER_CALL):
        MlflowClient().log_batch(run.id, params=part)
    run._params.update(new)


def _log_tags(run: Run, records: list[Tag]) -> None:
    _set_tags(run.id, {record.key: record.value for record in records})


def _set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    for part in _chunks([RunTag(key, value) for key, value in tags.items()], SETTINGS_PER_CALL):
        MlflowClient().log_batch(run_id, tags=part)


def _log_metrics(run: Run, records: list[Metrics]) -> None:
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, record.step) for record in records for key, value in record.values.items()
    ]
    for part in _chunks(metrics, METRICS_PER_CALL):
        MlflowClient().log_batch(run.id, metrics=part)


def _log_files(run: Run, records: list[Picture | Text | File | Table | Arrays]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            path = Path(folder, _inside(record.path))
            if isinstance(record, Table) and path.suffix == ".json":
                # As objects, for of the other kind of text MLflow's code makes pandas complain.
                frame = record.frame.copy()
                for name in [name for name in frame if pd.api.types.is_string_dtype(frame[name])]:
                    frame[name] = frame[name].astype(object)
                MlflowClient().log_table(run.id, frame, record.path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(record, path)
        MlflowClient().log_artifacts(run.id, folder)


def _log_keyed_pictures(run: Run, records: list[KeyedPicture]) -> None:
    for record in records:
        # Squares, not blur.
        factor = -(-GRID_PIXELS // max(record.image.shape[:2]))
        picture = Image.fromarray(enlarge(record.image, factor))
        try:
            # Written asynchronously, MLflow's default, a picture that fails leaves a run that counts as finished.
            MlflowClient().log_image(run.id, picture, key=record.key, step=record.step, synchronous=True)
        except ValueError as error:
            raise ValueError(f"{record.key!r} is no key of a picture: {_one_line(error)}") from error


def _log_datasets(run: Run, records: list[DatasetUse]) -> None:
    inputs = [
        DatasetInput(
            Dataset(
                name=record.name,
                digest=record.digest[:36],  # MLflow keeps no more; the whole is in the source
                source_type="local",
                source=json.dumps({"uri": record.source, "digest": record.digest}),
                profile=json.dumps({"rows": dict(record.rows)}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for record in records
    ]
    MlflowClient().log_inputs(run.id, inputs)


def _log_models(run: Run, records: list[Model]) -> None:
    """Pickled, because MLflow's newer pt2 format loads a traced graph, on which no forward hook and so no CAM works.

    The requirements are given, which spares the child process that infers them, and the package travels with the model,
    so that it loads where this project is not installed.
    """
    for record in records:
        with _import_path_kept():
            ModelFormat.log(
                artifact_path=None,
                name=MODEL,
                flavor=mlflow.pytorch,
                run_id=run.id,
                pytorch_model=copy.deepcopy(record.module).cpu().eval(),
                serialization_format="pickle",
                pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("torch", "numpy", "jaxtyping")],
                signature=infer_signature(record.example_input, record.example_output),
                input_example=record.example_input,
                code_paths=[str(Path(__file__).parent)],
                step=record.step,
            )


_WRITERS: dict[type, Callable[[Run, list[Any]], None]] = {
    Param: _log_params,
    Tag: _log_tags,
    Metrics: _log_metrics,
    Picture: _log_files,
    Text: _log_files,
    File: _log_files,
    Table: _log_files,
    Arrays: _log_files,
    KeyedPicture: _log_keyed_pictures,
    DatasetUse: _log_datasets,
    Model: _log_models,
}


T = TypeVar("T")


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(f"{path!r} is no path inside a run: give a relative one without `..`, such as galleries/a.png")
    return path


@singledispatch
def _save(record: object, path: Path) -> None:
    raise TypeError(f"{type(record).__name__} is not a file")


@_save.register
def _save_picture(record: Picture, path: Path) -> None:
    Image.fromarray(record.image).save(path, format="PNG")


@_save.register
def _save_text(record: Text, path: Path) -> None:
    path.write_text(record.text, encoding="utf-8")


@_save.register
def _save_file(record: File, path: Path) -> None:
    path.write_bytes(record.content)


@_save.register
def _save_table(record: Table, path: Path) -> None:
    if path.suffix == ".parquet":
        record.frame.to_parquet(path)
    elif path.suffix == ".csv":
        record.frame.to_csv(path, index=False)
    else:
        raise ValueError(f"a table cannot be written to {record.path!r}: the name must end in .parquet, .csv or .json")


@_save.register
def _save_arrays(record: Arrays, path: Path) -> None:
    with path.open("wb") as file:  # given a name, numpy would add an ending of its own
        np.savez_compressed(file, allow_pickle=False, **dict(record.arrays))


@contextlib.contextmanager
def _import_path_kept() -> Iterator[None]:
    """MLflow puts the code of a model that it loads first on the import path and leaves it there."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


def _no_pickle_warning(entry: logging.LogRecord) -> bool:
    return "Saving pytorch model by Pickle" not in entry.getMessage()


logging.getLogger("mlflow.pytorch").addFilter(_no_pickle_warning)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial MLflow database tables..."


# -------------------------------------------------------------------------------------------------- the life of a run


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM): raised where the program stands, so that its runs are closed."""


class StoppedEarly(Exception):
    """The run promises too little to be finished: it ends as FINISHED, but does not count as completed."""


class GoesOnElsewhere(Exception):
    """Another process writes this run now: it is left as it is."""


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
    """A run to log into, closed on the way out: FINISHED and completed, FAILED with the error as a tag, or KILLED.

    It is the run that `mlflow run` opened for this program, if it did and this is the first one that is opened here;
    else a new one, below the run `parent_run_id` if given, in the experiment that the environment names or in Default.
    A child whose process died is opened `again` by its run id, where it still exists. `before_writing` is called
    before records are logged; what it raises ends the block, and nothing is written.
    Runs nest: a parent stays open while its children are opened one after another. `prepare_store` comes first.

    Raises:
        TrackingError: the run, its parent or the experiment does not exist.
    """
    run = _start(kind, name, tags, parent_run_id, again)
    run.before_writing = before_writing
    with terminated_by_signal():
        try:
            yield run
        except GoesOnElsewhere:
            raise
        except StoppedEarly:
            _set_tags(run.id, {STATUS: "stopped early"})
            MlflowClient().set_terminated(run.id, "FINISHED")
            raise
        except BaseException as error:
            with _deaf_to_signals():
                _close_failed(run.id, error)
            raise
        _set_tags(run.id, {STATUS: "completed"})
        MlflowClient().set_terminated(run.id, "FINISHED")


def _start(kind: str, name: str, tags: Mapping[str, str], parent_run_id: str | None, again: str | None) -> Run:
    own = {
        **tags,
        KIND: kind,
        STATUS: "started",
        RUN_NAME: name,
        HOST: socket.gethostname(),
        PID: str(os.getpid()),
        PROCESS_START: processes.started(os.getpid()),
    }
    client = MlflowClient()
    opened = None if parent_run_id else os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        if parent_run_id:
            own[PARENT] = parent_run_id
        if opened := opened or (again if again and is_there(again) else None):
            before = client.get_run(opened).data.tags
            _set_tags(opened, own | _commit(before))
            if ERROR in before:  # of the attempt that died
                client.delete_tag(opened, ERROR)
            client.update_run(opened, status="RUNNING")
            return Run(client.get_run(opened))
        experiment_id = client.get_run(parent_run_id).info.experiment_id if parent_run_id else _experiment_id()
        context = resolve_tags(own)
        return Run(client.create_run(experiment_id, tags=context | _commit(context), run_name=name))
    except MlflowException as error:
        raise TrackingError(f"the run {name!r} cannot be opened: {_one_line(error)}") from error


def is_there(run_id: str) -> bool:
    """Whether there is a run of this id that nobody has deleted."""
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
        _set_tags(run_id, {ERROR: _one_line(error)})
        MlflowClient().set_terminated(run_id, "KILLED" if killed else "FAILED")
    except Exception as second:
        error.add_note(f"run {run_id} still counts as RUNNING, its end could not be written: {_one_line(second)}")


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """A second signal, such as torchrun sends when one of its processes has failed, does not come between."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Inside, a request to end raises where the program stands: SIGTERM `Terminated`, Ctrl-C KeyboardInterrupt.

    Python loses an exception that a signal raises in a callback or a destructor; `raise_if_asked` makes up for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals
        return
    handlers = {signal.SIGTERM: _terminate}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell has its background jobs ignore it
        handlers[signal.SIGINT] = _interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before[signal.SIGTERM] is not _terminate:
            _asked.clear()


_asked: list[int] = []


def _terminate(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise Terminated(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def raise_if_asked() -> None:
    """Returns where nobody has asked this process to end; for long work, between its parts.

    Raises:
        Terminated, KeyboardInterrupt: somebody has.
    """
    if _asked:
        raise KeyboardInterrupt if _asked[-1] == signal.SIGINT else Terminated(128 + _asked[-1])


def sweep_stale() -> list[str]:
    """The ids of runs that a dead process of this machine left RUNNING; they are KILLED now."""
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = f"attributes.status = 'RUNNING' AND tags.`{HOST}` = '{socket.gethostname()}'"
    stale = [
        run.info.run_id
        for run in client.search_runs(experiments, running)
        if not processes.is_alive(int(run.data.tags[PID]), run.data.tags.get(PROCESS_START, ""))
    ]
    for run_id in stale:
        _set_tags(run_id, {ERROR: "the process ended without a word (killed, or the machine went down)"})
        client.set_terminated(run_id, "KILLED")
    return stale


# ------------------------------------------------------------------------------------------------ reading finished runs


@dataclass(frozen=True)
class FinishedRun:
    """A completed run as it was logged: parameters as text, tags, and the last value of each metric."""

    id: str
    name: str
    experiment_id: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    def read_text(self, path: str) -> str:
        """The text file at `path`. Like all readers here, raises TrackingError where the run has no such file."""
        with self._fetched(path) as file:
            return file.read_text(encoding="utf-8")

    def read_json(self, path: str) -> Any:
        """What the JSON file at `path` says."""
        return json.loads(self.read_text(path))

    def read_table(self, path: str) -> pd.DataFrame:
        """The table at `path`, `.parquet` or `.csv`."""
        with self._fetched(path) as file:
            return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)

    def read_arrays(self, path: str) -> dict[str, np.ndarray]:
        """The arrays in the `.npz` at `path`, by name."""
        with self._fetched(path) as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def read_picture(self, path: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at `path`."""
        with self._fetched(path) as file, Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))

    def metric_history(self, key: str) -> list[tuple[int, float]]:
        """Step and value of a metric, in the order of the steps; empty if the run has none of that name."""
        history = MlflowClient().get_metric_history(self.id, key)
        return sorted((metric.step, metric.value) for metric in history)

    def list_keys(self) -> tuple[str, ...]:
        """The keys of the pictures in MLflow's image grid, sorted."""
        return tuple(sorted({match["key"].replace("~", "/") for match in self._grid_pictures()}))

    def picture_steps(self) -> set[int]:
        """The steps at which there are pictures in MLflow's image grid."""
        return {int(match["step"]) for match in self._grid_pictures()}

    def _grid_pictures(self) -> list[re.Match[str]]:
        files = MlflowClient().list_artifacts(self.id, "images")
        return [match for file in files if (match := _KEY_IN_FILE.match(file.path))]

    def load_model(self) -> nn.Module:
        """The network on the CPU, in evaluation mode."""
        with _import_path_kept(), tempfile.TemporaryDirectory() as folder:
            try:
                loaded: nn.Module = mlflow.pytorch.load_model(f"runs:/{self.id}/{MODEL}", folder, map_location="cpu")
            except (OSError, MlflowException) as error:
                raise TrackingError(
                    f"run {self.id} ({self.name}) has no model that loads: {_one_line(error)}"
                ) from error
        return loaded

    @contextlib.contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = Path(MlflowClient().download_artifacts(self.id, path, folder))
            except (OSError, MlflowException) as error:
                raise TrackingError(f"run {self.id} ({self.name}) has no file {path!r}: {_one_line(error)}") from error
            yield file


def completed_run(fingerprint: str, experiment_id: str | None = None) -> FinishedRun | None:
    """The newest completed run with this fingerprint, or None, in one experiment: as given, else as `open_run` uses.

    Raises:
        ValueError: a fingerprint that is not letters, digits, dashes and underscores.
    """
    if not re.fullmatch(r"[\w-]+", fingerprint):
        raise ValueError(f"{fingerprint!r} is no fingerprint: letters, digits, - and _ are allowed")
    found = MlflowClient().search_runs(
        [experiment_id or _experiment_id()],
        f"tags.`{FINGERPRINT}` = '{fingerprint}' AND tags.`{STATUS}` = 'completed' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return _finished(found[0]) if found else None


def finished_run(run_id: str) -> FinishedRun:
    """The completed run with this id.

    Raises:
        TrackingError: there is none, or it did not complete.
    """
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"{mlflow.get_tracking_uri()} has no run {run_id!r}: {_one_line(error)}") from error
    return _completed(run)


def finished_training(prefix: str) -> FinishedRun:
    """The completed training whose run id begins with `prefix`, in whichever experiment.

    Raises:
        TrackingError: no run or several begin so, or it is no training, or it did not complete.
        ValueError: a prefix that is not of the digits 0-9 and a-f.
    """
    if not re.fullmatch("[0-9a-f]+", prefix):
        raise ValueError(f"{prefix!r} begins no run id: the digits 0-9 and a-f are allowed")
    experiments = [experiment.experiment_id for experiment in MlflowClient().search_experiments()]
    found = _search(experiments, f"attributes.run_id LIKE '{prefix}%'")
    if not found:
        raise TrackingError(f"no run begins with {prefix!r}{_near_run(prefix, experiments)}")
    if len(found) > 1:
        several = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found[:3])
        raise TrackingError(f"{len(found)} runs begin with {prefix!r}, such as {several}: give more digits")
    kind = found[0].data.tags.get(KIND)
    if kind != TRAIN:
        what = f"of kind {kind!r}" if kind else "of another program"
        raise TrackingError(f"run {prefix} ({found[0].info.run_name}) is {what}: give the ids of trainings")
    return _completed(found[0])


def finished_trainings(matching: str) -> list[FinishedRun]:
    """The completed trainings that MLflow's search finds with the filter `matching`, the oldest first.

    In the experiment that `open_run` uses.

    Raises:
        TrackingError: MLflow cannot read the filter, or no completed training matches.
    """
    try:
        found = _search([_experiment_id()], matching)
    except MlflowException as error:
        raise TrackingError(f"MLflow does not take {matching!r} ({_one_line(error)})") from error
    finished = [_finished(run) for run in found if _is_completed(run) and run.data.tags.get(KIND) == TRAIN]
    if not finished:
        others = "".join(
            f", only such as {run.info.run_id} ({run.info.run_name}, {run.info.status})" for run in found[:1]
        )
        raise TrackingError(f"{matching!r} matches no completed training{others}")
    return finished


def _search(experiment_ids: list[str], matching: str) -> list[mlflow.entities.Run]:
    runs: list[mlflow.entities.Run] = []
    token = None
    while True:
        order = ["attributes.start_time ASC"]
        page = MlflowClient().search_runs(experiment_ids, matching, order_by=order, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _near_run(prefix: str, experiment_ids: list[str]) -> str:
    """A suggestion such as `; did you mean 1a2b3c (baseline, seed 0)?`, empty where no training is near."""
    trainings = _search(experiment_ids, f"tags.`{KIND}` = '{TRAIN}'")
    names = {run.info.run_id[: len(prefix)]: run.info.run_name for run in trainings}
    near = difflib.get_close_matches(prefix, names, n=1, cutoff=0.8)  # one digit of six
    return f"; did you mean {near[0]} ({names[near[0]]})?" if near else ": MLflow's UI shows it on the run's page"


def _is_completed(run: mlflow.entities.Run) -> bool:
    return run.data.tags.get(STATUS) == "completed"


def _completed(run: mlflow.entities.Run) -> FinishedRun:
    if not _is_completed(run):
        why = run.data.tags.get(ERROR, "no error recorded")
        cure = "wait for its end" if run.info.status == "RUNNING" else "train it again"
        raise TrackingError(f"run {run.info.run_id} did not complete (status {run.info.status}, {why}): {cure}")
    return _finished(run)


def _finished(run: mlflow.entities.Run) -> FinishedRun:
    info, data = run.info, run.data
    return FinishedRun(info.run_id, info.run_name, info.experiment_id, data.params, data.tags, data.metrics)


# -------------------------------------------------------------------------------------------------- views and the UI


def write_view(experiment_id: str, view: views.View) -> str:
    """The part of a link that opens the view: `ui_address` makes it whole. A view of the same name is replaced.

    The experiment's note, shown above its runs, lists the links to all views of ours, the newest first; what a person
    wrote into the note stays.

    Raises:
        ValueError: the view is too long for MLflow.
    """
    client = MlflowClient()
    for index, run_id in enumerate(view.run_ids):
        colour = {views.COLOUR: view.colours[index]} if index < len(view.colours) else {}
        _set_tags(run_id, {view.column_tag: views.column(index)} | colour)
    client.set_experiment_tag(experiment_id, view.tag, views.pack(view, int(time.time() * 1000)))
    tags = client.get_experiment(experiment_id).tags
    client.set_experiment_tag(experiment_id, NOTE, _note(experiment_id, tags, newest=view.tag))
    return views.fragment(experiment_id, view.key)


def _note(experiment_id: str, tags: Mapping[str, str], newest: str) -> str:
    links = [f"[{name}]({address})" for name, address in _view_links(experiment_id, tags, newest)]
    mark = f"viewStateShareKey={views.KEY_PREFIX}"
    others = [line for line in tags.get(NOTE, "").splitlines() if mark not in line]
    # An empty line between links, or Markdown joins them.
    return "\n\n".join([*links, "\n".join(others).strip()]).strip()


def _view_links(experiment_id: str, tags: Mapping[str, str], newest: str = "") -> list[tuple[str, str]]:
    ours = {
        tag: json.loads(value) for tag, value in tags.items() if tag.startswith(views.TAG_PREFIX + views.KEY_PREFIX)
    }
    order = sorted(ours, key=lambda tag: (tag != newest, -ours[tag]["updatedAt"]))[:VIEWS_IN_NOTE]
    return [(ours[tag]["name"], views.fragment(experiment_id, tag.removeprefix(views.TAG_PREFIX))) for tag in order]


def ui_address(fragment: str = "") -> str:
    """The address of the UI: the tracking server's if one is used, else CAMPARISON_UI, else where `make ui` serves."""
    uri = mlflow.get_tracking_uri()
    local = os.environ.get("CAMPARISON_UI") or f"http://127.0.0.1:{UI_PORT}"
    return f"{(uri if uri.startswith('http') else local).rstrip('/')}/{fragment}"


def ui_hint() -> str:
    """What to do before the UI's address opens, in brackets; nothing where a server has it open."""
    return "" if mlflow.get_tracking_uri().startswith("http") else " (start it with `make ui`)"


def file_address(run: Run, path: str) -> str:
    """Where a person opens a file of the run: its place on this machine, or its page in the server's UI."""
    place = urlparse(run.artifact_uri)
    if place.scheme in ("", "file"):
        return str(Path(unquote(place.path)) / path)
    return ui_address(f"#/experiments/{run.experiment_id}/runs/{run.id}/artifacts/{path}")


def set_parent(run_ids: Iterable[str], parent_run_id: str) -> None:
    """Hangs finished or interrupted runs below another one; those that were deleted meanwhile are left alone."""
    for run_id in run_ids:
        if is_there(run_id):
            _set_tags(run_id, {PARENT: parent_run_id})


def mark_confirmed(run_id: str, study: str, stage: int, candidate: str) -> None:
    """The run confirms a candidate of the study; one run may do so for several studies."""
    _set_tags(run_id, {confirms(study): f"{stage} {candidate}"})


def confirms(study: str) -> str:
    """The tag of runs that confirm a candidate of the study: the stage and the candidate."""
    return f"camparison.confirms.{study}"


def experiment_of(run_id: str | None) -> str | None:
    """The experiment of a run; None where there is none of this id."""
    return MlflowClient().get_run(run_id).info.experiment_id if run_id and is_there(run_id) else None


def append(run_id: str, records: Iterable[Record]) -> None:
    """Writes more records into a run that may have ended; its status stays."""
    Run(MlflowClient().get_run(run_id)).log(records)


def serve_ui(port: int, root: Path | None = None) -> int:
    """Serves MLflow's UI of this project's store, on this machine only, until Ctrl-C; the server's exit code.

    Raises:
        TrackingError: the port is taken, or a server keeps the store and has its own UI.
    """
    uri = prepare_store(root)
    if uri.startswith("http"):
        raise TrackingError(f"MLFLOW_TRACKING_URI names a server, which has the UI: open {uri}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"port {port} cannot be used ({error.strerror}): stop what uses it, or choose another with --port"
            ) from error
    os.environ["CAMPARISON_UI"] = f"http://127.0.0.1:{port}"
    print(f"MLflow UI: {ui_address()} (ready in some seconds; Ctrl-C stops it)")
    for experiment in MlflowClient().search_experiments():
        for name, address in _view_links(experiment.experiment_id, experiment.tags):
            print(f"{name}: {ui_address(address)}")
    sys.stdout.flush()
    unset = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # job workers: a gigabyte and a half, used by nothing here
        "PYTHONWARNINGS": "ignore",  # the server's own, of its own packages
    }
    # Files go where runs without a server put them, also in experiments that are created in the UI.
    files = (root or Path.cwd()).resolve() / "mlruns"
    where = ["--backend-store-uri", uri, "--default-artifact-root", str(files), "--host", "127.0.0.1"]
    server = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(port), "--workers", "1"]
    return _until_interrupted(server, environment)


def _until_interrupted(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of `command`; 0 where Ctrl-C ended it. It runs in a session of its own, which ends as a whole.

    Given Ctrl-C itself, MLflow's server would answer with a traceback.
    """
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with terminated_by_signal():
            return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `python -m experiments.tracking`: 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tracking", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="set the tracking store up")
    commands.add_parser("ui", help="open the MLflow UI").add_argument("--port", type=int, default=UI_PORT)
    commands.add_parser("relocate", help="after the project folder was moved: find the runs' files here")
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            print(f"tracking store: {prepare_store()}")
        elif given.command == "relocate":
            print(relocate())
        else:
            return serve_ui(given.port)
    except TrackingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
