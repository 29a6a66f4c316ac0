"""What every test starts from: an empty folder of its own, no MLflow settings, no open run."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from tests.toys.postgres import Postgres

REPOSITORY = Path(__file__).parents[1]
# Where programs that tests start find the project, and what they would find where only its own packages are installed.
INSTALLED_ALONE = str(Path(__file__).parent / "toys" / "without_lightning")
PYTHONPATH = f"{INSTALLED_ALONE}:{REPOSITORY}"
PATIENCE_S = 900.0
"""How long a test waits for an event that must come: far longer than it takes beside any number of busy programs."""

# A property is true or false; how fast it is shown is no part of it. `make test-wild` tries ten times as many examples.
settings.register_profile("few", deadline=None, max_examples=20)
settings.register_profile("many", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


@sa.event.listens_for(sa.Engine, "connect")
def _commit_without_the_disk(connection: object, record: object) -> None:
    """SQLite waits for the disk at every commit. That matters only where the power fails."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


_STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--budget SECONDS`: the last lines report how much of this time the tests used."""
    parser.addoption("--budget", type=float, metavar="SECONDS", help="report how much of this time the tests used")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: what is left for the end is small, and no process waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remembers when the tests started."""
    session.config.stash[_STARTED] = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the used part of the budget. The result of the tests does not depend on it."""
    if budget := config.getoption("budget"):
        used = time.monotonic() - config.stash[_STARTED]
        terminalreporter.write_line(f"tests took {used:.0f} s of the {budget:.0f} s budget ({used / budget:.0%})")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's own folder is the current one, programs that it starts find the project, MLflow starts afresh."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "CAMPARISON_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.chdir(tmp_path)
    yield
    if "experiments.tracking.sender" in sys.modules:
        from experiments.tracking.sender import close_sender

        close_sender()
    if "mlflow" in sys.modules:
        import mlflow

        leftover = mlflow.active_run()
        mlflow.end_run("KILLED")
        forget_mlflow()
        assert leftover is None, f"the test left run {leftover.info.run_id} open"


def forget_mlflow() -> None:
    """Takes back what calls of MLflow have set. Fixtures that several tests share call it when they are made."""
    import mlflow

    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Also where the tests run in the background of a script, which is started deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def ready_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty, ready mlflow.db. Setting one up takes seconds, so it is done once and copied."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ready-store"
    with FileLock(f"{folder}.lock"):
        if not (folder / "mlflow.db").exists():
            folder.mkdir(exist_ok=True)
            prepare = [sys.executable, "-m", "experiments.tracking", "prepare"]
            subprocess.run(prepare, cwd=folder, env=clean_environment(), check=True, capture_output=True)
    return folder


@pytest.fixture
def store(ready_store: Path, tmp_path: Path) -> Path:
    """The test's own folder, with a ready mlflow.db."""
    put_store(ready_store, tmp_path)
    return tmp_path


def put_store(ready_store: Path, folder: Path) -> None:
    """Copies the ready mlflow.db into the folder."""
    shutil.copy(ready_store / "mlflow.db", folder)
    connection = sqlite3.connect(folder / "mlflow.db")
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
    connection.close()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A real PostgreSQL of this test session's own."""
    from tests.toys import postgres

    if not postgres.PROGRAMS.exists():
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    with postgres.running() as server:
        yield server


def clean_environment() -> dict[str, str]:
    """The environment for a program of ours: no MLflow settings, the project importable from every folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "CAMPARISON_"))}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": PYTHONPATH}


def run_where_the_project_is_not(code: str, *words: str, folder: Path) -> str:
    """What a program prints that starts in `folder` and finds only what is installed."""
    environment = clean_environment() | {"PYTHONPATH": INSTALLED_ALONE}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_project(folder: Path) -> None:
    """Puts into the folder what a fresh clone has for `mlflow run`."""
    for name in ("experiments", "cam_core"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(REPOSITORY / name, folder)


def run_mlflow(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as typed with the environment active: its Python first on the path, the project found by folder."""
    environment = os.environ | {"PYTHONPATH": INSTALLED_ALONE}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on tensors as small as those of tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, command: list[str], port: int) -> Iterator[str]:
    """The address of a real MLflow server that `command` starts in `folder`; it ends with the block, children too."""
    environment = clean_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)


def _wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()}"
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no server within {PATIENCE_S:.0f} s: {log.read_text()}")
