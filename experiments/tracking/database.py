"""MLflow's database in an SQLite file: built whole or not at all, and told apart from files that are something else.

MLflow builds a new database in more than fifty steps, in its place. A kill in between left a file that no later command
could use. So it is built here in a file beside it, and then gets its name. A half-built file that other programs left
(`mlflow run` before our program starts, an older version of this suite) is replaced, if it holds nothing.
"""

import contextlib
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from alembic.script import ScriptDirectory
from mlflow.store.db import utils as mlflow_tables
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.initial_models import Base as FirstBase
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.version import VERSION

from ..system import sqlite_files
from ..system.processes import named, users_of
from ..system.sqlite_files import has_rows, schema_version, tables_in, trouble
from ..system.waiting import SAY_S, say
from .client import one_line
from .locations import TrackingError

OTHER = "set MLFLOW_TRACKING_URI=sqlite:///FILE to use another file"
BUILDING_S = 60.0  # another program may need so long to build the database
_ALWAYS_THERE = {"alembic_version": -1, "experiments": 1, "workspaces": 1}  # rows in a database without a run


def ready(database: Path, root: Path) -> None:
    """Makes sure that `database` is a whole database of this MLflow, which can be written. Call it under the lock.

    Args:
        root: the folder whose `mlruns/` is the place for the files of new experiments.

    Raises:
        TrackingError: it is something else, or cannot be used now; the message says what and how to go on.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if database.exists():
            sqlite_files.check_writable(database)  # first, because nobody can read while another program writes
        if not database.exists() or _is_unfinished(database):
            _build(database, root)
        _refuse_other_content(database)
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(explained(database, error)) from error


@contextlib.contextmanager
def opening(root: Path) -> Iterator[None]:
    """Inside, MLflow may open a store: it puts the files of new experiments into the current folder, then `root`."""
    with contextlib.chdir(root), warnings.catch_warnings():
        # MLflow 3.17 declares its tables in the style of SQLAlchemy 2.0.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        yield


def explained(database: Path, error: BaseException) -> str:
    """One line about an error of the file system, of SQLite, or of MLflow, with the way out."""
    return trouble(database, error, OTHER) or f"{database} cannot be used ({one_line(error)}): correct that, or {OTHER}"


def _is_unfinished(database: Path) -> bool:
    """Whether a program that is gone left the file half built; waits for one that builds it now."""
    start = time.monotonic()
    while _is_half_built(database):
        builders = users_of(database)
        if not builders:
            return True
        builder, waited = named(builders[0]), time.monotonic() - start
        if waited > BUILDING_S:
            raise TrackingError(f"{database} is half built, and {builder} has it open: stop that, and start again")
        if waited > SAY_S:
            say(f"waiting for {database}, which {builder} sets up")
        time.sleep(0.2)
    return False


def _is_half_built(database: Path) -> bool:
    """Whether it has only tables of MLflow, not all of them, and no experiment, run or model in any."""
    tables = tables_in(database)
    if tables >= set(Base.metadata.tables) or not all(_is_mlflows(name) for name in tables):
        return False
    return not any(has_rows(database, name, _ALWAYS_THERE.get(name, 0)) for name in tables if name != "alembic_version")


def _is_mlflows(table: str) -> bool:
    names = Base.metadata.tables.keys() | FirstBase.metadata.tables.keys() | {"alembic_version"}
    return table.removeprefix("_alembic_tmp_") in names


def _build(database: Path, root: Path) -> None:
    """Builds the database beside its place; then it gets its name in one step."""
    new = database.with_name(f".{database.name}.new")
    for leftover in database.parent.glob(f"{new.name}*"):
        leftover.unlink()
    with opening(root):
        SqlAlchemyStore(f"sqlite:///{new}", "./mlruns").engine.dispose()  # type: ignore[no-untyped-call]
    with new.open("rb") as file:
        os.fsync(file.fileno())
    if database.exists() and not _is_unfinished(database):
        new.unlink()  # another program, which knows nothing of the lock, has built it meanwhile
    else:
        os.replace(new, database)


def _refuse_other_content(database: Path) -> None:
    tables = tables_in(database)
    if not {"experiments", "runs"} <= tables:
        what = "a study of Optuna" if {"studies", "trials"} <= tables else f"tables such as {_some(tables)}"
        raise TrackingError(f"{database} is a database of another program, with {what}: {OTHER}")
    version = schema_version(database)
    scripts = ScriptDirectory.from_config(mlflow_tables._get_alembic_config(""))  # type: ignore[no-untyped-call]
    if tables >= set(Base.metadata.tables) and version == scripts.get_current_head():
        return
    if version and version not in {script.revision for script in scripts.walk_revisions()}:
        raise TrackingError(
            f"{database} was written by a newer MLflow than {VERSION} (schema {version}): "
            f"use that version of MLflow, or {OTHER}; the file is as it was"
        )
    raise TrackingError(
        f"{database} was written by an older MLflow than {VERSION} (schema {version or 'without a version'}): make a "
        f"copy (`cp {database} {database}.copy`), then run `mlflow db upgrade sqlite:///{database}`"
    )


def _some(tables: frozenset[str]) -> str:
    return ", ".join(sorted(tables)[:3])
