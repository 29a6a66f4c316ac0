"""Studies whose processes are killed, stopped and started again: nothing is lost, nothing is done twice."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from experiments.study.ledger import Ledger
from tests.conftest import PATIENCE_S
from tests.toys.postgres import Postgres
from tests.toys.scenes import TINY, put_scenes

pytestmark = pytest.mark.slow

OPTIONS = TINY | {"train_images": 50, "checkpoint": "none", "heartbeat": 1, "confirm": "false"}


def launch(storage: str, **given: object) -> "subprocess.Popen[bytes]":
    """`tune`, leader of a process group; its workers are leaders of groups of their own."""
    options = OPTIONS | {"storage": storage} | given
    words = [f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen([sys.executable, "-m", "experiments.tune", *words], start_new_session=True)


def workers_of(folder: Path) -> list[int]:
    """The worker processes whose current folder is this one, whoever started them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"experiments.tune" in words and b"worker" in words and (place / "cwd").resolve() == folder.resolve():
                found.append(int(place.name))
        except OSError:
            continue  # it has ended meanwhile
    return sorted(found)


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(condition: object, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.2)


def completed(storage: str) -> int:
    """Attempts that completed, 0 while there is no study yet."""
    from experiments.study.addresses import StudyError

    try:
        ledger = Ledger("cutout", storage, 1.0)
    except StudyError:
        return 0
    return len(ledger.search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


@pytest.mark.parametrize(
    ("kind", "trials", "workers", "kills", "pause_s"),
    [
        ("sqlite", 4, 2, 1, 1),
        pytest.param("postgresql", 4, 2, 1, 1, marks=pytest.mark.wild),
        pytest.param("sqlite", 16, 4, 5, 3, marks=pytest.mark.wild),
        pytest.param("postgresql", 16, 4, 5, 3, marks=pytest.mark.wild),
    ],
)
def test_every_ticket_survives_kills_and_a_restart(
    kind: str, trials: int, workers: int, kills: int, pause_s: float, store: Path, request: pytest.FixtureRequest
) -> None:
    put_scenes(store)
    storage = f"sqlite:///{store}/studies.db"
    if kind == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        storage = server.address(f"chaos{trials}")
    draw = random.Random(16)
    first = launch(storage, trials=trials, workers=workers)
    for kill_number in range(kills):
        wait_for(lambda n=kill_number: completed(storage) > n and workers_of(store), "progress")
        time.sleep(draw.uniform(0, pause_s))
        kill(draw.sample(workers_of(store), 1))
    kill([first.pid, *workers_of(store)])
    first.wait()
    second = launch(storage, trials=trials, workers=workers)
    try:
        assert second.wait(PATIENCE_S) == 0
    finally:
        kill([second.pid, *workers_of(store)])

    ledger = Ledger("cutout", storage, 1.0)
    attempts = ledger.search.get_trials()
    done = [attempt.user_attrs["ticket"] for attempt in attempts if attempt.state == TrialState.COMPLETE]
    assert sorted(done) == list(range(trials))
    assert {attempt.state for attempt in attempts} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert not [attempt.user_attrs["error"] for attempt in attempts if "error" in attempt.user_attrs]
    check_runs(store, ledger, trials)


def check_runs(store: Path, ledger: Ledger, trials: int) -> None:
    """The runs agree with the ledger: none is left open, and the run of the study is the parent of all others."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    runs = client.search_runs(["0"], max_results=1000)
    assert "RUNNING" not in {run.info.status for run in runs}
    studies = [run for run in runs if run.data.tags["camparison.kind"] == "tune"]
    assert [run.info.status for run in studies] == ["FINISHED", "KILLED"]  # the newest first
    parent = studies[0]
    assert ledger.notes.parent_run == parent.info.run_id
    folder = Path(client.download_artifacts(parent.info.run_id, "trials.csv", str(store)))
    table = pd.read_csv(folder).set_index("ticket")
    by_id = {run.info.run_id: run for run in runs}
    for ticket in ledger.tickets(ledger.search):
        trial, row = ticket.result, table.loc[ticket.number]
        assert row["val/accuracy"] == pytest.approx(trial.values[0], abs=1e-12)
        assert (row["run"], row["seed"], row["attempts"], row["state"]) == (
            *(trial.user_attrs["run"], trial.user_attrs["seed"]),
            *(len(ticket.attempts), "complete"),
        )
        run = by_id[trial.user_attrs["run"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["camparison.status"] == "completed"
        assert "camparison.error" not in run.data.tags
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["val/accuracy"] == pytest.approx(trial.values[0])
    assert sorted(table.index) == list(range(trials))
    assert table["run"].nunique() == trials


@pytest.mark.wild  # its short form: tests/study/test_ledger.py, a ticket that was given away at the last moment
def test_a_worker_that_slept_leaves_its_ticket_to_the_one_that_took_it(store: Path) -> None:
    """It counts as dead after five seconds; a worker of another machine takes the ticket."""
    put_scenes(store)
    storage = f"sqlite:///{store}/studies.db"
    launcher = launch(storage, trials=2, workers=2)
    try:
        wait_for(lambda: _signed(storage), "a ticket in hand")
        number, sleeper = _signed(storage)[0]
        wait_for(lambda: _stopped_outside_databases(sleeper, store), "a moment in which it writes nothing")
        wait_for(lambda: len(_attempts(storage, number)) > 1, "another attempt at its ticket")
        wait_for(lambda: _attempts(storage, number)[-1].state == TrialState.COMPLETE, "the other attempt")
        wait_for(lambda: _status(storage, number, store) == "FINISHED", "the end of its run")
        awake = time.time()
        os.kill(sleeper, signal.SIGCONT)
        assert launcher.wait(PATIENCE_S) == 0
    finally:
        kill([launcher.pid, *workers_of(store)])
    attempts = _attempts(storage, number)
    assert [trial.state for trial in attempts] == [TrialState.FAIL, TrialState.COMPLETE]
    assert completed(storage) == 2

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
    run = client.get_run(attempts[-1].user_attrs["run"])
    assert run.info.status == "FINISHED"
    # Whoever ended the run signed it, and the one that slept wrote nothing into it.
    assert run.data.tags["camparison.attempt"] == "2"
    last = max(path.stat().st_mtime for path in Path(run.info.artifact_uri.removeprefix("file://")).rglob("*"))
    assert last <= awake


def _status(storage: str, number: int, folder: Path) -> str:
    """The status of the run of the ticket's last attempt, in MLflow."""
    import mlflow

    run_id = _attempts(storage, number)[-1].user_attrs["run"]
    return str(mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(run_id).info.status)


def _stopped_outside_databases(pid: int, folder: Path) -> bool:
    """Stops the process, or lets it go on if it has locked a database, for which all others would wait."""
    os.kill(pid, signal.SIGSTOP)
    for name in ("mlflow.db", "studies.db"):
        connection = sqlite3.connect(folder / name, timeout=0.5, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            return False
        finally:
            connection.close()
    return True


def _signed(storage: str) -> list[tuple[int, int]]:
    """Ticket and process of the attempts in hand that have a run already."""
    if not Path(storage.removeprefix("sqlite:///")).exists():
        return []
    from experiments.study.addresses import StudyError

    try:
        search = Ledger("cutout", storage, 1.0).search
    except StudyError:
        return []
    running = search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [
        (trial.user_attrs["ticket"], json.loads(trial.user_attrs["worker"])[1])
        for trial in running
        if "run" in trial.user_attrs
    ]


def _attempts(storage: str, number: int) -> list:  # type: ignore[type-arg]
    ledger = Ledger("cutout", storage, 1.0)
    tickets = {ticket.number: ticket for ticket in ledger.tickets(ledger.search)}
    return list(tickets[number].attempts)
