"""What goes wrong is told in one line and leaves the run in the right state."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import free_port


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "experiments.train", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.mark.slow
def test_ctrl_c_marks_the_run_and_says_that_nothing_is_lost(store: Path) -> None:
    process = start("--dataset", "scenes", "--epochs", "100", "--threads", "1")
    assert process.stdout is not None
    for line in process.stdout:
        if "%" in line:  # it trains
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; finished runs are kept" in said
    assert "Traceback" not in said
    (run,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.tags["camparison.status"] == "started"
    assert run.data.metrics == {} or "val/accuracy" in run.data.metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--dataset", "folder:nowhere"], "nowhere"),
        (["--dataset", "cifar10", "--data_dir", "empty"], "CIFAR-10 is not in"),
        (["--dataset", "scenes", "--train_images", "3"], "train_images"),
    ],
)
def test_data_that_cannot_be_had_are_told_in_a_line_and_leave_no_run(
    options: list[str], problem: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there: as without a network
    process = start(*options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    lines = said.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("python -m experiments.train: ")
    assert problem in lines[0]
    assert MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"]) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_ui_without_a_traceback(store: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "experiments.tracking", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Uvicorn running" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in "".join(said) + rest
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nobody answers any more
