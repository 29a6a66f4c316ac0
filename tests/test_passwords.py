"""No password and no token appears anywhere: every entry point fails with marked ones, and everything is searched."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from experiments import compare, entry, train, tune
from experiments.settings.command_line import words_of
from experiments.study import addresses
from experiments.system.secrets import hidden, remember
from experiments.tracking import __main__ as tracking
from experiments.tracking import ui
from experiments.tracking.outbox import OFFLINE
from tests.conftest import free_port, mlflow_server
from tests.toys.answers_of_servers import Answer, serving
from tests.toys.postgres import PASSWORD, Postgres
from tests.toys.scenes import TINY, put_scenes
from tests.toys.unreliable import proxy

MARK, TOKEN = "S3CRET-MARK", "T0KEN-MARK"
LOGIN = f"me:{MARK}%40x@127.0.0.1"
QUICK = ["--dataset", "scenes", "--image_size", "16", "--threads", "1"]
SHORT = {name: value for name, value in TINY.items() if f"--{name}" not in QUICK}

COMMANDS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": lambda words: train.main([*QUICK, *words]),
    "compare": lambda words: compare.main([*QUICK, *words]),
    "tune": lambda words: tune.main([*QUICK, *words]),
    "prepare": lambda words: tracking.main(["prepare"]),
    "ui": lambda words: tracking.main(["ui"]),
    "tidy": lambda words: tracking.main(["tidy"]),
}


def written(folder: Path) -> bytes:
    """Names and contents of all files in the folder, but for the images."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".npz"]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in files)


def run(command: Callable[[Sequence[str]], object], words: Sequence[str]) -> object:
    try:
        return command(words)
    except SystemExit as end:
        if isinstance(end.code, str):  # as Python does at the end of a program
            print(end.code, file=sys.stderr)
        return end.code


@pytest.mark.parametrize(
    "answer", [Answer(401, b"no"), Answer(500, b"broken"), None, Answer(302, b"", {"Location": "/"})]
)
def test_no_entry_point_shows_the_login_of_a_server_that_fails(
    answer: Answer | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda request: answer) as port:
        for command in COMMANDS.values():
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{LOGIN}:{port}")
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
            assert run(command, [])
    said = capfd.readouterr()
    assert f"http://127.0.0.1:{port}" in said.err
    assert "Traceback" not in said.err
    assert not [mark for mark in (MARK, TOKEN) if mark in said.out + said.err]
    assert MARK.encode() not in written(tmp_path)


def test_no_entry_point_shows_the_login_of_a_proxy_or_a_storage(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    put_scenes(store)
    storage = f"postgresql://{LOGIN}:{free_port()}/studies"
    for words in (["--storage", storage], [f"--storage={storage}", "--trials", "many"], ["--storage", f"{storage}/x"]):
        assert run(COMMANDS["tune"], words) == 2
    for helper in ("worker", "ray"):
        assert run(tune.main, [helper, "--storage", storage])
    monkeypatch.setenv(addresses.STORAGE, storage)
    assert run(tune.main, ["worker"])
    assert run(tune.main, ["worker", "--help"]) == 0
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{LOGIN}:{free_port()}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://far.example")
    assert run(COMMANDS["train"], []) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg://{LOGIN}:{free_port()}/mlflow")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    assert run(COMMANDS["train"], []) == 2
    said = capfd.readouterr()
    assert "***" in said.err
    assert MARK not in said.out + said.err
    assert MARK.encode() not in written(store)


@pytest.mark.wild
@pytest.mark.slow
def test_a_login_that_works_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real MLflow behind a proxy that asks for a login: by address, by variables, by token."""
    put_scenes(tmp_path)
    (tmp_path / "server").mkdir()
    password = f"{MARK}@x"
    logins = {f"me:{password}": 0, TOKEN: 0, f"you:{password}": 403}
    server = mlflow_server(tmp_path / "server", ["mlflow", "ui", "--workers", "1"], free_port())
    with server as behind, proxy(behind, logins) as asks:
        place = asks.address.removeprefix("http://")
        for login, status in (("he", 401), ("you", 403)):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{login}:{quote(password)}@{place}")
            assert run(COMMANDS["train"], []) == 2
            assert f"{status}" in capfd.readouterr().err
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{quote(password)}@{place}")
        assert run(COMMANDS["compare"], words_of(SHORT | {"cutout_size": "8"})) is None
        assert run(COMMANDS["ui"], []) == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", asks.address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with monkeypatch.context() as patch:
            patch.setenv(OFFLINE, "1")
            assert run(COMMANDS["train"], words_of(SHORT | {"seed": "1"})) is None
        shown = subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout
        assert tracking.main(["send"]) == 0
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        assert run(COMMANDS["tune"], words_of(SHORT | {"trials": "1", "workers": "1", "confirm": "false"})) is None
        assert run(COMMANDS["tidy"], []) == 0
        # 3 of the comparison, 1 that was sent, 1 of the study, which takes the baseline of the comparison
        assert len(MlflowClient().search_runs(["0"])) == 5
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    everything = (said.out + said.err + shown).encode() + written(tmp_path)
    assert not [mark for mark in (MARK, quote(password), TOKEN) if mark.encode() in everything]


@pytest.mark.wild
def test_a_password_of_a_study_stands_nowhere(
    store: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put_scenes(store)
    options = SHORT | {"trials": "2", "workers": "1", "storage": postgres.address("passwords")}
    assert run(COMMANDS["tune"], words_of(options)) is None
    said = capfd.readouterr()
    assert PASSWORD.encode() not in (said.out + said.err).encode() + written(store)


def test_an_error_that_nobody_caught_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    remember(f"postgresql://me:{MARK}@host/x")
    error = ValueError(f"cannot connect as me with {MARK} to http://you:0ther@host")
    entry.print_without_passwords(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: cannot connect as me with *** to http://you:***@host\n"


def test_the_list_of_processes_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.tune", "--storage", f"postgresql://{LOGIN}/x"])
    words = sys.orig_argv[3:]
    safe = addresses.password_to_environment(words)
    assert safe == ["--storage", "postgresql://me@127.0.0.1/x"]
    assert os.environ["PGPASSWORD"] == f"{MARK}@x"
    monkeypatch.delenv("PGPASSWORD")
    addresses.hide_in_list_of_processes(words, safe)
    addresses.hide_in_list_of_processes(safe, safe)
    assert started == [[sys.executable, "-m", "experiments.tune", *safe]]


def test_the_server_of_the_ui_gets_its_store_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"postgresql://{LOGIN}/mlflow"
    monkeypatch.setattr(ui, "prepare_store", lambda root: address)
    monkeypatch.setattr(ui.MlflowClient, "search_experiments", lambda client: [])
    given: list[tuple[Sequence[str], dict[str, str]]] = []

    def run_server(command: Sequence[str], environment: dict[str, str]) -> int:
        given.append((command, environment))
        return 0

    monkeypatch.setattr(ui, "_until_interrupted", run_server)
    assert ui.serve_ui(free_port()) == 0
    ((command, environment),) = given
    assert MARK not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == address


@pytest.mark.parametrize("form", [MARK, f"{MARK}%40x", f"{MARK}@x"])
def test_every_form_of_a_known_password_is_hidden(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", form)
    assert hidden(f"as {form!r}") == "as '***'"
