"""The tracking store on disk: where it lies, and where its records say that the runs' files lie.

MLflow writes the absolute folder of the files into each experiment, run and model. Two things go wrong with that, and
both are put right here, in the SQLite file itself, because MLflow has no call that changes a location:

- `mlflow ui` started before the first run gives the experiment the location `mlflow-artifacts:/0`, which only clients
  of that server can use. The server keeps such files in `mlartifacts/` beside the database, so the location becomes
  that folder: runs write there directly, and a server, running or started later, shows their files.
- A project folder that was moved takes its files along, but the records still name the old folder.
"""

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import Failed

FOLDERS = ("mlruns", "mlartifacts")  # where MLflow keeps files without a server, and a default server does
LOCK = ".mlflow.lock"
_SQLITE = "sqlite:///"
_SERVED = "mlflow-artifacts:/"
_LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


class TrackingError(Failed):
    """The tracking store cannot be used as it is; the message is one line and names the way out."""


def database_of(root: Path) -> Path:
    """The database that MLflow uses when nothing is set and `root` is the current folder."""
    return root / "mlflow.db"


def database_in(uri: str, root: Path) -> Path | None:
    """The SQLite file that a tracking URI names, relative ones seen from `root`; None for every other kind of store."""
    path = unquote(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else ""
    return root / path if path and not path.startswith(":") else None


def refuse_old_file_store(root: Path) -> None:
    """Returns when `mlruns/` holds no experiment of MLflow's former file store, which would hide the database.

    Raises:
        TrackingError: it does.
    """
    for meta in sorted((root / "mlruns").glob("*/meta.yaml")):
        if meta.parent.name.isdigit():
            raise TrackingError(
                f"{meta.parent} is of MLflow's former file store, which this MLflow does not write: move the numbered "
                f"folders in {root / 'mlruns'} elsewhere (`mlflow migrate-filestore` carries old runs over)"
            )


def home(location: str, experiment_id: str) -> Path | None:
    """The project folder that an experiment's files belong to, or None where they are kept elsewhere on purpose."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    folder = Path(unquote(parts.path) if parts.scheme else location)
    if folder.is_absolute() and folder.name == experiment_id and folder.parent.name in FOLDERS:
        return folder.parent.parent
    return None


def serve_from_disk(database: Path) -> int:
    """Points what a server was meant to hand out at that server's folder; the number of records changed."""
    return _replace_prefixes(database, {_SERVED: f"{database.parent}/mlartifacts/"})


def move_home(database: Path, old: Path, new: Path) -> int:
    """Points the files recorded under the project folder `old` at the same ones under `new`; the number of records."""
    return _replace_prefixes(database, {f"{old}/{name}/": f"{new}/{name}/" for name in FOLDERS})


def _replace_prefixes(database: Path, prefixes: dict[str, str]) -> int:
    """One transaction, so that no process sees an experiment that is changed beside a run that is not."""
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
    # A second slash would be a server named in the location itself: mlflow-artifacts://host/0 is left alone.
    matching = f"{table} WHERE substr({column}, 1, ?) = ? AND substr({column}, ?, 1) <> '/'"
    which = (len(old), old, len(old) + 1)
    if connection.execute(f"SELECT 1 FROM {matching} LIMIT 1", which).fetchone() is None:
        return 0  # an UPDATE would wait for other writers
    where = matching.removeprefix(table)
    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) {where}"
    return connection.execute(change, (new, len(old) + 1, *which)).rowcount
