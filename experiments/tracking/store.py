"""The tracking store: prepares it for several processes, checks it, and corrects it after its folder was moved."""

import contextlib
import os
import urllib.request
import warnings
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from . import locations
from .client import one_line
from .environment import set_environment
from .locations import TrackingError


def prepare_store(root: Path | None = None) -> str:
    """Prepares the tracking store for several processes at once, and returns its URI.

    MLFLOW_TRACKING_URI names the store. If it is not set, the store is MLflow's default, `mlflow.db` and `mlruns/` in
    the project folder `root` (by default the current folder). A new database is set up under a file lock, because
    several processes that set it up at once leave a database that MLflow cannot open. Every entry point calls this
    first.

    Raises:
        TrackingError: a server does not answer, the database does not open, or the files of the runs are elsewhere.
    """
    set_environment()
    root = (root or Path.cwd()).resolve()
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not given:
        locations.refuse_old_file_store(root)
    database = locations.database_in(given, root) if given else locations.database_of(root)
    uri = f"sqlite:///{database}" if database else given
    mlflow.set_tracking_uri(uri)
    if uri.startswith(("http://", "https://")):
        _ask_server(uri)
        return uri
    with FileLock(database.parent / locations.LOCK) if database else contextlib.nullcontext():
        _open_store(uri, root)
        if database == locations.database_of(root):
            locations.serve_from_disk(database)
    _check_locations(database, root)
    return uri


def _ask_server(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise TrackingError(
                f"the MLflow server {uri} does not work: /health answers {error.code}; restart it"
            ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(
            f"no MLflow server answers at {uri} ({reason}): start it, or unset MLFLOW_TRACKING_URI to use this folder"
        ) from error


def _open_store(uri: str, root: Path) -> None:
    """Opens the store; the first call creates the tables.

    MLflow puts files of new experiments into the current folder.
    """
    with contextlib.chdir(root), warnings.catch_warnings():
        # MLflow 3.17 declares its tables in the style of SQLAlchemy 2.0.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(
                f"{uri} cannot be opened as an MLflow store: move it away to start a new store ({one_line(error)})"
            ) from error


def _check_locations(database: Path | None, root: Path) -> None:
    experiment = _named_experiment()
    if experiment is None:
        return
    location = experiment.artifact_location
    if location.startswith("mlflow-artifacts:"):
        raise TrackingError(
            f"the files of experiment {experiment.name!r} are on an MLflow server: set MLFLOW_TRACKING_URI to its "
            "http address, or MLFLOW_EXPERIMENT_NAME to another experiment"
        )
    home = locations.home(location, experiment.experiment_id)
    if home and database == locations.database_of(root) and home.resolve() != root:
        raise TrackingError(
            f"the runs in {database} have their files recorded under {home}, but the project is now in {root}: "
            "run `.venv/bin/python -m experiments.tracking relocate` to correct the records, or move the folder back"
        )


def relocate(root: Path | None = None) -> str:
    """Corrects the records after a project folder was moved or copied with its runs; returns one line about it.

    Raises:
        TrackingError: there is no database, or no record in it names another folder.
    """
    root = (root or Path.cwd()).resolve()
    database = locations.database_of(root)
    if not database.exists():
        raise TrackingError(f"there is no {database}: nothing to relocate")
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    experiment = _named_experiment()
    home = locations.home(experiment.artifact_location, experiment.experiment_id) if experiment else None
    if home is None or home.resolve() == root:
        raise TrackingError(f"the runs in {database} already have their files in this folder: nothing to relocate")
    return f"{locations.move_home(database, home, root)} records moved from {home} to {root}"


def _named_experiment() -> Experiment | None:
    """The experiment that the environment names, else Default; None if it does not exist yet.

    Raises:
        TrackingError: the experiment is deleted, or its number is unknown.
    """
    number, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
    client = MlflowClient()
    try:
        found = client.get_experiment_by_name(name) if name and not number else client.get_experiment(number or "0")
    except MlflowException as error:
        raise TrackingError(f"MLFLOW_EXPERIMENT_ID={number}: {one_line(error)}") from error
    if found and found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {found.name!r} is deleted: set MLFLOW_EXPERIMENT_NAME to another, or restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found


def current_experiment() -> str:
    found = _named_experiment()
    if found is None:
        # Another process may create it at the same moment.
        with contextlib.suppress(MlflowException):
            return MlflowClient().create_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
        found = _named_experiment()
    if found is None:
        raise TrackingError(f"the experiment {os.environ['MLFLOW_EXPERIMENT_NAME']!r} cannot be created")
    return str(found.experiment_id)
