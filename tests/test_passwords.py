"""No password and no token appears anywhere: every entry point fails with marked ones, and everything is searched."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments import compare, entry, train, tune
from experiments.study import addresses
from experiments.system.secrets import hidden, remember
from experiments.tracking import __main__ as tracking
from experiments.tracking import ui
from tests.conftest import free_port
from tests.toys.answers_of_servers import Answer, serving
from tests.toys.scenes import put_scenes

MARK, TOKEN = "S3CRET-MARK", "T0KEN-MARK"
LOGIN = f"me:{MARK}%40x@127.0.0.1"
QUICK = ["--dataset", "scenes", "--image_size", "16", "--threads", "1"]

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
