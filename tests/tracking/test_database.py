"""MLflow's database: built whole or not at all, and every other file is told apart and left as it is."""

import os
import shutil
import signal
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from experiments.system import sqlite_files
from experiments.tracking.locations import TrackingError
from experiments.tracking.store import prepare_store
from tests.toys.study import child, end_of

HOME = "mlflow.db"


def problem() -> str:
    """The one line in which the store is refused."""
    with pytest.raises(TrackingError) as refused:
        prepare_store()
    assert "\n" not in str(refused.value)
    assert "move it away" not in str(refused.value)
    return str(refused.value)


def execute(statement: str, file: str = HOME) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(statement)
    connection.close()


def killed_while_it_builds(statement: int) -> None:
    """A process that is killed when that many statements of its first start have begun."""
    left = statement

    def count(*ignored: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    prepare_store()


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement", [60, *(pytest.param(number, marks=pytest.mark.wild) for number in (0, 1, 10, 200, 400, 700))]
)
def test_a_first_start_that_is_killed_leaves_nothing_that_stops_the_next(statement: int) -> None:
    assert end_of(child(lambda: killed_while_it_builds(statement))) == -signal.SIGKILL
    assert not Path(HOME).exists()  # so it has nothing half built
    assert end_of(child(prepare_store)) == 0
    assert MlflowClient(f"sqlite:///{Path.cwd()}/{HOME}").search_experiments()[0].name == "Default"
    assert sorted(path.name for path in Path.cwd().iterdir()) == [".mlflow.lock", HOME]


@pytest.mark.slow
def test_a_half_built_file_of_another_program_is_replaced(store: Path) -> None:
    """As `mlflow run` leaves it, which builds the database in its place before our program starts."""
    for table in ("trace_info", "logged_models"):
        execute(f"DROP TABLE {table}")
    execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    prepare_store()
    assert sqlite_files.tables_in(store / HOME) >= {"trace_info", "logged_models"}


def test_a_file_that_is_half_built_but_holds_a_run_is_kept(store: Path) -> None:
    prepare_store()
    MlflowClient().create_run("0")
    execute("DROP TABLE logged_models")
    execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    before = Path(HOME).read_bytes()
    said = problem()
    assert f"was written by an older MLflow than 3.17.2 (schema 451aebb31d03): make a copy (`cp {store}/{HOME}" in said
    assert f"`mlflow db upgrade sqlite:///{store}/{HOME}`" in said
    assert Path(HOME).read_bytes() == before


def test_a_newer_schema_is_named_and_the_file_is_left(store: Path) -> None:
    execute("UPDATE alembic_version SET version_num = 'of-the-future'")
    before = Path(HOME).read_bytes()
    assert "was written by a newer MLflow than 3.17.2 (schema of-the-future): use that version" in problem()
    assert Path(HOME).read_bytes() == before


def text_file() -> None:
    Path(HOME).write_text("run, accuracy\n" * 100)


def other_database() -> None:
    execute("CREATE TABLE customers (name)")


def study() -> None:
    optuna.create_study(storage=f"sqlite:///{Path.cwd()}/{HOME}")


def folder() -> None:
    Path(HOME).mkdir()


def damaged(ready_store: Path) -> None:
    content = bytearray((ready_store / HOME).read_bytes())
    content[2000:] = bytes(len(content) - 2000)
    Path(HOME).write_bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            text_file,
            "mlflow.db is no SQLite database: restore it from a copy if it was one, or set MLFLOW_TRACKING_URI",
        ),
        (other_database, "is a database of another program, with tables such as customers: set MLFLOW_TRACKING_URI"),
        (study, "is a database of another program, with a study of Optuna: set MLFLOW_TRACKING_URI="),
        (folder, "mlflow.db cannot be opened, because it is a folder: change that, or set MLFLOW_TRACKING_URI="),
    ],
)
def test_files_that_are_something_else_are_named_and_left(make: Callable[[], None], said: str, tmp_path: Path) -> None:
    make()
    before = Path(HOME).read_bytes() if Path(HOME).is_file() else b""
    assert said in problem()
    assert not before or Path(HOME).read_bytes() == before


def dangling() -> None:
    Path(HOME).symlink_to("nowhere/mlflow.db")


@pytest.mark.parametrize("make", [lambda: os.mkfifo(HOME), lambda: os.mknod(HOME, 0o600 | stat.S_IFSOCK), dangling])
def test_a_database_takes_the_place_of_no_device(make: Callable[[], None]) -> None:
    """As root it replaced `/dev/full` once."""
    make()
    before = os.lstat(HOME)
    assert "is a device, a pipe or a link that leads nowhere: set MLFLOW_TRACKING_URI=sqlite:///FILE" in problem()
    assert os.lstat(HOME) == before
    assert [path.name for path in Path.cwd().iterdir()] == [HOME]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        *(
            (uri, "names no file that keeps runs; write sqlite:///FILE")
            for uri in ("sqlite://", "sqlite:///", "SQLITE:x")
        ),
        *(
            (f"sqlite:///{path}", "names no file that keeps runs")
            for path in (":memory:", "a?mode=ro", "file:a?mode=rw")
        ),
        ("sqlite+pysqlite:///a.db", "names no file that keeps runs"),
        ("sqlite:////proc/a.db", "/proc/a.db cannot be opened or written: change that"),
        ("mysql://me:s3cret@127.0.0.1/db", "mysql://me:***@127.0.0.1/db needs a package (ModuleNotFoundError: "),
        ("http://[::1", "MLFLOW_TRACKING_URI=http://[::1: Invalid IPv6 URL; write http://HOST:PORT"),
    ],
)
def test_an_address_that_keeps_nothing_is_refused(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert said in problem()
    assert list(Path.cwd().iterdir()) == []


def test_a_damaged_database_is_named(ready_store: Path) -> None:
    damaged(ready_store)
    assert "mlflow.db is damaged (database disk image is malformed): restore it from a copy, or read" in problem()


def as_nobody(function: Callable[[], object]) -> int:
    """The exit code of a process without the rights of root, which calls the function."""

    def work() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        function()

    return end_of(child(work))


@pytest.fixture
def open_to_all(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a store that every user can reach: pytest's own folders are for one user."""
    folder = Path(tempfile.mkdtemp(prefix="camparison-store-"))
    shutil.copy(HOME, folder)
    lock = folder / ".mlflow.lock"
    lock.touch()
    lock.chmod(0o666)
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_file_is_named(open_to_all: Path) -> None:
    open_to_all.chmod(0o777)
    (open_to_all / HOME).chmod(0o444)

    def refused() -> None:
        assert "mlflow.db cannot be written: the file is read-only for this user: change that, or set" in problem()

    assert as_nobody(refused) == 0


def test_a_read_only_folder_is_named(open_to_all: Path) -> None:
    (open_to_all / HOME).chmod(0o666)
    open_to_all.chmod(0o555)

    def refused() -> None:
        assert f"mlflow.db cannot be written: the folder {open_to_all} is read-only for this user" in problem()

    assert as_nobody(refused) == 0


def test_a_full_disk_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*ignored: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("experiments.system.sqlite_files.check_writable", full)
    assert "the disk of " in (said := problem())
    assert "is full: free some space and start again" in said


def test_a_lock_is_waited_for_and_its_holder_is_said(
    store: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "SAY_S", 0.05)
    asked, released = os.pipe()
    holding, held = os.pipe()

    def hold() -> None:
        connection = sqlite3.connect(HOME, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        os.write(held, b"x")
        os.read(asked, 1)
        connection.close()

    holder = child(hold)
    os.read(holding, 1)
    threading.Timer(0.5, lambda: os.write(released, b"x")).start()
    prepare_store()
    assert end_of(holder) == 0
    said = capfd.readouterr().err
    assert said.count(f"waiting for {store / HOME}, which is locked by process {holder} (") == 1


def test_a_lock_that_stays_is_an_error_with_its_holder(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "SAY_S", 0.02)
    monkeypatch.setattr(sqlite_files, "LOCKED_S", 0.05)
    connection = sqlite3.connect(HOME, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    assert f"{store / HOME} is locked by another program: wait until that has ended" in problem()
    connection.close()


def test_a_file_in_a_place_that_is_no_folder_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(HOME, "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/other/mlflow.db")
    assert f"cannot be opened, because there is no folder {store}/other" in problem()
