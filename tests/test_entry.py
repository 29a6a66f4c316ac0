"""What goes wrong is told in one line and leaves the run in the right state."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from experiments import compare, entry, train, tune
from experiments.data.dataset import DataError
from experiments.settings.command_line import words_of
from experiments.study.addresses import StorageLost
from experiments.system.own_code import own_code
from experiments.tracking import __main__
from experiments.tracking.lifetime import open_run
from experiments.tracking.locations import TrackingError
from experiments.tracking.outbox import OFFLINE, OUTBOX
from experiments.tracking.reading import finished_run
from experiments.tracking.signals import Terminated
from tests.conftest import PATIENCE_S, free_port
from tests.toys.scenes import TINY, put_scenes


@contextmanager
def started(module: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The running command; whatever happens, it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", module, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What the process says up to the first line with the word."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if word in line:
            break
    return said


def test_a_store_that_fails_on_the_way_is_not_called_nothing_started(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = store / "mlruns" / "0" / "meta.yaml"
    old.parent.mkdir(parents=True)
    old.touch()
    with pytest.raises(SystemExit, match="2"), entry.at_work("x"):
        raise AssertionError("the store is refused before any work")
    assert "nothing was started" in capsys.readouterr().err
    old.unlink()
    with pytest.raises(SystemExit, match=f"^x: the server is gone\nx: {entry.KEPT}$"), entry.at_work("x"):
        begin_and_raise(TrackingError("the server is gone"))


def begin_and_raise(error: Exception) -> None:
    """A run is begun and ends; then the work fails."""
    with open_run(kind="train", name="baseline"):
        pass
    raise error


@pytest.mark.parametrize("error", [DataError("no images"), StorageLost("the storage is gone")])
def test_last_words_say_what_exists_now(error: Exception, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as early, entry.at_work("x"):
        raise error
    words = {2: f"x: {error}\nx: nothing was started; 'x --help' lists every option\n"}
    said = early.value.code if isinstance(early.value.code, str) else words[early.value.code]
    assert said in (words[2], f"x: {error}\nx: {entry.NOTHING}")
    assert capsys.readouterr().err in (words[2], "")
    with pytest.raises(SystemExit) as late, entry.at_work("x"):
        begin_and_raise(error)
    assert late.value.code == f"x: {error}\nx: {entry.KEPT}"


def test_a_fault_of_the_program_ends_with_what_exists_now(store: Path) -> None:
    with pytest.raises(ZeroDivisionError) as fault, entry.at_work("x"):
        begin_and_raise(ZeroDivisionError())
    assert fault.value.__notes__ == [f"x: this is a fault of the program; {entry.KEPT}"]


@pytest.mark.parametrize("what", ["ValueError('mine')", "SystemExit('mine')"])
def test_an_error_of_ones_own_code_on_the_way_is_one_line(what: str, store: Path, tmp_path: Path) -> None:
    (tmp_path / "own_failing.py").write_text(f"def fail():\n    raise {what}\n")
    fail = own_code("model", f"{tmp_path}/own_failing.py:fail").found
    with pytest.raises(SystemExit) as left, entry.at_work("train"), open_run(kind="train", name="a run"):
        fail()
    first, second = str(left.value.code).splitlines()
    assert first == f"train: your own code fails: {what.partition('(')[0]}: mine (own_failing.py, line 2)"
    assert second == f"train: {entry.KEPT}"


def test_an_error_of_mlflow_on_the_way_is_one_line(store: Path) -> None:
    with (
        pytest.raises(SystemExit, match=f"(?s)^x: .*mlflow.db cannot be used .*x: {entry.NOTHING}$"),
        entry.at_work("x"),
    ):
        MlflowClient().get_run("0" * 32)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "x: stopped; no training had begun"),
        (Terminated(128 + signal.SIGTERM), 143, "x: ended by SIGTERM; no training had begun"),
        (Terminated(128 + signal.SIGHUP), 129, "x: ended by SIGHUP; no training had begun"),
    ],
)
def test_a_request_to_end_is_answered_in_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "prepare_tracking", lambda: None)
    with pytest.raises(SystemExit) as end, entry.at_work("x"):
        raise error
    assert end.value.code == code
    assert capfd.readouterr().err.startswith(line)
    with pytest.raises(SystemExit), entry.at_work("x", last_words=False):
        raise error
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_ctrl_c_marks_the_run_and_says_that_nothing_is_lost(store: Path) -> None:
    put_scenes(store)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    with started("experiments.train", *words_of(TINY | {"epochs": "5000"})) as process:
        while not any("val/accuracy" in run.data.metrics for run in client.search_runs(["0"])):
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "stopped; finished runs and the last checkpoint" in said
    assert "Traceback" not in said
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.tags["camparison.status"] == "started"
    assert run.data.metrics == {} or "val/accuracy" in run.data.metrics


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--dataset", "folder:nowhere"], "nowhere"),
        (["--dataset", "cifar10", "--data_dir", "empty"], "CIFAR-10 is not in"),
        (["--dataset", "scenes", "--train_images", "3"], "train_images"),
    ],
)
def test_data_that_cannot_be_had_are_told_in_a_line_and_leave_no_run(
    options: list[str],
    problem: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there: as without a network
    put_scenes(store)
    with pytest.raises(SystemExit) as end:
        train.main([*options, "--image_size", "16", "--threads", "1"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("python -m experiments.train: ")]
    assert len(lines) == 2
    assert problem in lines[0]
    assert "Traceback" not in said
    assert MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"]) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_ui_without_a_traceback(store: Path) -> None:
    port = free_port()
    with started("experiments.tracking", "ui", "--port", str(port)) as process:
        said = read_until(process, "Uvicorn running")
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0
    assert "Traceback" not in said
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nobody answers any more


@pytest.mark.parametrize("entry_point", [compare, tune])
def test_what_trains_several_networks_is_refused_under_torchrun(
    entry_point: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some job")
    with pytest.raises(SystemExit) as end:
        entry_point.main([])
    assert end.value.code == 2
    assert "torchrun: cannot start this command" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.wild
def test_a_comparison_without_a_network_comes_to_mlflow_later(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_scenes(store)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    options = TINY | {"cutout_size": "8", "offline": "true", "outbox": "elsewhere", "quiet": "true"}
    with monkeypatch.context() as patch:
        for variable in (OFFLINE, OUTBOX):
            patch.setenv(variable, "")  # the command sets them; the context takes them back
        compare.main(words_of(options))
        assert client.search_runs(["0"]) == []
        assert "3 runs wait in" in capsys.readouterr().err
    monkeypatch.setenv(OUTBOX, "elsewhere")
    assert __main__.main(["send"]) == 0
    sent = {run.info.run_id: run for run in client.search_runs(["0"])}
    (parent,) = (run for run in sent.values() if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in sent.values() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [run.info.status for run in sent.values()] == ["FINISHED"] * 3
    assert len(children) == 2
    found = finished_run(parent.info.run_id).read_json("comparison.json")
    assert set(re.findall(r"\b[0-9a-f]{32}\b", str(found))) <= sent.keys()
    capsys.readouterr()
    compare.main(words_of(options | {"offline": "false"}))  # nothing is trained again
    assert len(client.search_runs(["0"])) == 4


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(1 << 50), lambda: np.empty(1 << 60, np.uint8)], ids=["torch", "numpy"]
)
def test_too_little_memory_ends_with_the_cure_and_a_run_that_has_failed(
    allocate: Callable[[], object], store: Path
) -> None:
    told = rf"^x: out of memory; give a smaller batch_size or image_size, .*\nx: {entry.KEPT}$"
    with pytest.raises(SystemExit, match=told), entry.at_work("x"), open_run(kind="train", name="baseline"):
        allocate()
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
