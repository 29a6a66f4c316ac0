"""The tracking store: prepares it for several processes, checks it, and corrects it after its folder was moved."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from ..system.secrets import without_password
from ..system.waiting import locked
from . import database, locations, server
from .client import one_line
from .environment import set_environment, unreadable
from .locations import TrackingError


def prepare_store(root: Path | None = None) -> str:
    """Prepares the tracking store for several processes at once, and returns its URI, without user and password.

    MLFLOW_TRACKING_URI names the store. If it is not set, the store is MLflow's default, `mlflow.db` and `mlruns/` in
    the project folder `root` (by default the current folder). A new database is set up under a file lock, because
    several processes that set it up at once leave a database that MLflow cannot open. Every entry point calls this
    first.

    Raises:
        TrackingError: a server or a database is not there, is something else, or cannot be used; or the files of the
            runs are elsewhere.
    """
    set_environment()
    if problem := unreadable():
        raise TrackingError(problem)
    root = (root or Path.cwd()).resolve()
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        locations.refuse_old_file_store(root)
    if server.is_server(given):
        return _prepare_server(given)
    file = locations.database_in(given, root) if given else locations.database_of(root)
    uri = f"sqlite:///{file}" if file else given
    mlflow.set_tracking_uri(uri)
    if file:
        _prepare_file(file, root)
    _open_store(uri, root)
    _check_locations(file, root)
    return uri


def _prepare_server(given: str) -> str:
    uri = server.without_login(given)
    mlflow.set_tracking_uri(uri)
    server.check(uri)
    with told():
        _named_experiment()
    return uri


def _prepare_file(file: Path, root: Path) -> None:
    locations.refuse_device(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent / locations.LOCK, f"the tracking store {file}"):
            database.ready(file, root)
            if file == locations.database_of(root):
                locations.serve_from_disk(file)
    except OSError as error:
        raise TrackingError(database.explained(file, error)) from error


def _open_store(uri: str, root: Path) -> None:
    """Opens the store."""
    with database.opening(root), told():
        MlflowClient(uri).search_experiments(max_results=1)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns the errors of MLflow into one line that names the store, and the way out where it is known.

    Raises:
        TrackingError: MLflow raised an error.
    """
    try:
        yield
    except ImportError as error:
        uri = without_password(mlflow.get_tracking_uri())
        raise TrackingError(f"{uri} needs a package ({one_line(error)}): install it, or use another store") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "alembic"):
            raise
        uri = mlflow.get_tracking_uri()
        file = locations.database_in(uri, Path.cwd())
        said = (
            database.explained(file, error) if file else f"{without_password(uri)} cannot be used ({one_line(error)})"
        )
        raise TrackingError(said) from error


def _check_locations(file: Path | None, root: Path) -> None:
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
    if home and file == locations.database_of(root) and home.resolve() != root:
        raise TrackingError(
            f"the runs in {file} have their files recorded under {home}, but the project is now in {root}: "
            "run `.venv/bin/python -m experiments.tracking relocate` to correct the records, or move the folder back"
        )


def relocate(root: Path | None = None) -> str:
    """Corrects the records after a project folder was moved or copied with its runs; returns one line about it.

    Raises:
        TrackingError: there is no database, or no record in it names another folder.
    """
    root = (root or Path.cwd()).resolve()
    file = locations.database_of(root)
    if not file.exists():
        raise TrackingError(f"there is no {file}: nothing to relocate")
    mlflow.set_tracking_uri(f"sqlite:///{file}")
    experiment = _named_experiment()
    home = locations.home(experiment.artifact_location, experiment.experiment_id) if experiment else None
    if home is None or home.resolve() == root:
        raise TrackingError(f"the runs in {file} already have their files in this folder: nothing to relocate")
    return f"{locations.move_home(file, home, root)} records moved from {home} to {root}"


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
        chosen = f"MLFLOW_EXPERIMENT_ID={number}" if number else f"MLFLOW_EXPERIMENT_NAME={name or 'Default'}"
        raise TrackingError(f"{chosen}: {one_line(error)}; correct or unset it") from error
    if found and found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {found.name!r} is deleted: set MLFLOW_EXPERIMENT_NAME to another, or restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found


def current_experiment() -> str:
    found = _named_experiment()
    return str(found.experiment_id) if found else made_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])


def made_experiment(name: str) -> str:
    """The number of an experiment that did not exist; another process may make it at the same moment."""
    with contextlib.suppress(MlflowException):
        return str(MlflowClient().create_experiment(name))
    if found := MlflowClient().get_experiment_by_name(name):
        return str(found.experiment_id)
    raise TrackingError(f"the experiment {name!r} cannot be created")
