"""What killed programs leave behind: runs are ended by whoever can know, everything else is shown."""

import os
import signal
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from experiments.system.processes import here, is_alive, lockers_of, named, started, users_of
from experiments.tracking import __main__, outbox
from experiments.tracking.client import ERROR, HOST, KIND, MACHINE, PID, PROCESS_START
from experiments.tracking.lifetime import open_run, sweep_stale
from experiments.tracking.store import prepare_store
from tests.toys.study import child, end_of

GONE = {KIND: "train", HOST: socket.gethostname(), MACHINE: here(), PID: str(2**22 + 1), PROCESS_START: "1"}


def begun(**changes: str) -> str:
    """A run that is RUNNING, with the tags of a process of this machine that is gone, changed like this."""
    tags = GONE | {f"camparison.{name}": value for name, value in changes.items()}
    return str(MlflowClient().create_run("0", tags=tags).info.run_id)


def status(run_id: str) -> str:
    return str(MlflowClient().get_run(run_id).info.status)


def test_only_runs_of_which_this_machine_can_know_are_ended(store: Path) -> None:
    prepare_store()
    host, boot, container = here().split(" ")
    dead = begun()
    others = [
        begun(machine=f"{host} {boot} pid:[1]"),  # another container with the same host name
        begun(machine=f"{host} 00000000-0000 {container}"),  # before a restart, or another machine of this name
        begun(machine=f"elsewhere {boot} {container}"),
        begun(pid=str(os.getpid()), process_start=started(os.getpid())),
        str(MlflowClient().create_run("0").info.run_id),
    ]
    assert sweep_stale() == [dead]
    assert [status(run_id) for run_id in (dead, *others)] == ["KILLED", *["RUNNING"] * 5]


def test_a_process_whose_start_is_hidden_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.system.processes._stat", lambda pid: [""] * 20)
    assert is_alive(os.getpid(), "123")


def test_a_process_is_named_without_its_options(tmp_path: Path) -> None:
    assert named(os.getpid()).startswith(f"process {os.getpid()} (")
    assert named(2**22 + 1) == f"process {2**22 + 1}"
    file = tmp_path / "file"
    file.touch()
    assert users_of(file) == lockers_of(file) == []


def test_tidy_shows_what_the_next_command_cannot_know(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_store()
    dead, elsewhere = begun(), begun(machine="elsewhere", host="elsewhere")
    launched = MlflowClient().create_run("0", tags={"mlflow.source.type": "PROJECT"}).info.run_id
    part = store / "data" / "checkpoints" / ".0123.pt.4711"
    part.parent.mkdir(parents=True)
    part.touch()
    with open_run(kind="train", name="at work") as alive:
        assert __main__.main(["tidy"]) == 0
        said = capsys.readouterr().out
        assert f"run {dead}: its process is gone; marked as KILLED" in said
        assert "began on elsewhere as process" in said
        assert "was begun by `mlflow run`, and its program has not started" in said
        assert f"{part}: a killed program left it unfinished\n" in said
        assert alive.id not in said
        assert __main__.main(["tidy", "--end", alive.id]) == 1
        assert "its process is at work; nothing was changed" in capsys.readouterr().err
    assert __main__.main(["tidy", "--remove", "--end", elsewhere, launched]) == 0
    assert not part.exists()
    assert [status(run_id) for run_id in (dead, elsewhere, launched, alive.id)] == ["KILLED"] * 3 + ["FINISHED"]
    assert "by hand" in MlflowClient().get_run(launched).data.tags[ERROR]
    capsys.readouterr()
    assert __main__.main(["tidy"]) == 0
    assert capsys.readouterr().out == ""


def killed(before_first_entry: bool) -> None:
    if before_first_entry:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "experiments.tracking.journal.Journal.append", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            )
            outbox.new_journal({})
    with open_run(kind="train", name="on the cluster"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_tidy_shows_what_stays_in_the_outbox(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_store()
    monkeypatch.setenv(outbox.OFFLINE, "1")
    for before_first_entry in (True, False):
        assert end_of(child(lambda first=before_first_entry: killed(first))) == -signal.SIGKILL
    monkeypatch.delenv(outbox.OFFLINE)
    (empty,), (journal,) = outbox.without_beginning(), outbox.journals()
    refused = outbox.folder() / "refused" / ("0" * 32)
    refused.mkdir(parents=True)
    for options in ([], ["--remove"]):
        assert __main__.main(["tidy", *options]) == 0
        said = capsys.readouterr().out
        assert (
            f"{journal.folder}: the offline run on the cluster was killed; the same command with offline=true" in said
        )
        assert f"{refused}: MLflow refused a part of this run" in said
        assert f"{empty}: a killed program left it unfinished" in said
    assert not empty.exists()
    assert journal.folder.exists()
    assert refused.exists()
