"""The tracking store on disk: its place, and the places that it records for the files of runs.

MLflow writes the absolute folder of the files into each experiment, run and model. This causes two problems. Both are
corrected here, directly in the SQLite file, because MLflow has no call that changes a location:

- If `mlflow ui` is started before the first run, the experiment gets the location `mlflow-artifacts:/0`, which only
  clients of that server can use. The server stores such files in `mlartifacts/` next to the database, so the location
  is changed to that folder: runs write there directly, and every server shows their files.
- When a project folder is moved, the files move too, but the records still name the old folder.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import Failed

FOLDERS = ("mlruns", "mlartifacts")  # where MLflow stores files without a server, and with a default server
LOCK = ".mlflow.lock"
_SQLITE = "sqlite:///"
_SERVED = "mlflow-artifacts:/"
_LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


class TrackingError(Failed):
    """The tracking store cannot be used in its present state; the message is one line and names the way out."""


def database_of(root: Path) -> Path:
    """The database that MLflow uses if nothing is set and `root` is the current folder."""
    return root / "mlflow.db"


def database_in(uri: str, root: Path) -> Path | None:
    """The SQLite file in a tracking URI; relative paths start at `root`; None for every other kind of store.

    Raises:
        TrackingError: SQLite would keep the runs in memory, where they are lost, or the address has options.
    """
    if not uri.lower().startswith("sqlite"):
        return None
    path = unquote(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else ""
    if not path or path.startswith((":", "file:")) or "?" in path:
        raise TrackingError(
            f"MLFLOW_TRACKING_URI={uri}: names no file that keeps runs; write sqlite:///FILE, without ?"
        )
    return root / path


def refuse_device(file: Path) -> None:
    """Checks that a new database would not take the place of a device, of a pipe, or of a link that leads nowhere.

    Raises:
        TrackingError: it would.
    """
    if os.path.lexists(file) and not file.is_file() and not file.is_dir():
        raise TrackingError(
            f"{file} is a device, a pipe or a link that leads nowhere: set MLFLOW_TRACKING_URI=sqlite:///FILE"
        )


def refuse_old_file_store(root: Path) -> None:
    """Checks that `mlruns/` contains no experiment of MLflow's former file store, because it would hide the database.

    Raises:
        TrackingError: it contains one.
    """
    found: list[Path] = []
    with contextlib.suppress(PermissionError):  # the database, which is opened next, is in the same folder
        found = sorted((root / "mlruns").glob("*/meta.yaml"))
    for meta in found:
        if meta.parent.name.isdigit():
            raise TrackingError(
                f"{meta.parent} is of MLflow's former file store, which this MLflow cannot write: move the numbered "
                f"folders in {root / 'mlruns'} elsewhere (`mlflow migrate-filestore` converts old runs)"
            )


def home(location: str, experiment_id: str) -> Path | None:
    """The project folder of an experiment's files, or None if they are stored elsewhere on purpose."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    folder = Path(unquote(parts.path) if parts.scheme else location)
    if folder.is_absolute() and folder.name == experiment_id and folder.parent.name in FOLDERS:
        return folder.parent.parent
    return None


def serve_from_disk(database: Path) -> int:
    """Changes server locations to the folder of the server; returns the number of changed records."""
    return _replace_prefixes(database, {_SERVED: f"{database.parent}/mlartifacts/"})


def move_home(database: Path, old: Path, new: Path) -> int:
    """Changes recorded locations in the project folder `old` to `new`; returns the number of changed records."""
    return _replace_prefixes(database, {f"{old}/{name}/": f"{new}/{name}/" for name in FOLDERS})


def _replace_prefixes(database: Path, prefixes: dict[str, str]) -> int:
    """Uses one transaction, so that no process sees a changed experiment together with an unchanged run."""
    connection = sqlite3.connect(database, timeout=60)
    try:
        with connection:
            return sum(
                _replace_prefix(connection, table, column, old, new)
                for table, column in _LOCATIONS
                for old, new in prefixes.items()
            )
    finally:
        connection.close()


def _replace_prefix(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    # After a second slash the location names a server: mlflow-artifacts://host/0 is left unchanged.
    matching = f"{table} WHERE substr({column}, 1, ?) = ? AND substr({column}, ?, 1) <> '/'"
    which = (len(old), old, len(old) + 1)
    if connection.execute(f"SELECT 1 FROM {matching} LIMIT 1", which).fetchone() is None:
        return 0  # an UPDATE would wait for other writers
    where = matching.removeprefix(table)
    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) {where}"
    return connection.execute(change, (new, len(old) + 1, *which)).rowcount
