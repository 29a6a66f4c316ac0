"""The workers of a study on a Ray cluster: nothing is lost when one is killed, or a machine goes."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from experiments import ray_workers
from experiments import tune as entry_point
from experiments.runs.prepare import load_dataset
from experiments.study import ray, tune
from experiments.study.addresses import StudyError
from experiments.study.ledger import Ledger
from experiments.study.settings import TuneSettings
from experiments.study.tune import adopt, commission
from experiments.system.progress import Reporter
from experiments.tracking.lifetime import open_run
from experiments.tracking.store import prepare_store
from tests.conftest import PATIENCE_S
from tests.toys.scenes import TINY, put_scenes

TRIALS = 4
SECRET = "a-password-that-is-nowhere-else"


def test_files_are_refused_where_there_are_several_machines() -> None:
    server, database = "http://mlflow:5000", "postgresql://user:geheim@db/studies"
    ray.refuse_local_stores("sqlite:///studies.db", "sqlite:////here/mlflow.db", 1)
    ray.refuse_local_stores(database, server, 2)
    with pytest.raises(StudyError, match=r"storage=sqlite:///studies\.db: 2 machines cannot share a file"):
        ray.refuse_local_stores("sqlite:///studies.db", server, 2)
    with pytest.raises(StudyError, match=r"MLFLOW_TRACKING_URI=sqlite:////here/mlflow\.db: 2 machines"):
        ray.refuse_local_stores(database, "sqlite:////here/mlflow.db", 2)


@pytest.mark.parametrize(
    ("placement", "threads", "device"),
    [((8, 1.0, 0.5), "1", "auto"), ((1, 3.5, 0.0), "3", "cpu"), ((2, 0.5, 1.0), "1", "auto")],
)
def test_a_worker_uses_what_it_is_given(placement: tuple[int, float, float], threads: str, device: str) -> None:
    assert ray.Placement(*placement).machine == {"threads": threads, "device": device}


def test_without_ray_the_extra_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds that is not installed
    with pytest.raises(SystemExit, match="2"):
        entry_point.main(["ray"])
    assert "Ray is not installed: pip install '.[ray]'" in capsys.readouterr().err


def test_a_study_that_nobody_has_started_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SystemExit, match="2"):
        entry_point.main(["ray", "--study", "absent"])
    assert (
        "study=absent: sqlite:///studies.db contains no study with this name; start it with" in capsys.readouterr().err
    )


def test_the_former_spelling_works_with_a_note(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SystemExit, match="2"):
        ray_workers.main(["--study", "absent"])
    said = capsys.readouterr().err
    assert "`python -m experiments.ray_workers` is now `python -m experiments.tune ray`" in said
    assert "python -m experiments.tune ray: study=absent: sqlite:///studies.db contains no study" in said


def test_an_address_without_a_cluster_is_refused_at_once() -> None:
    ray.refuse_silent_address(None)
    ray.refuse_silent_address("auto")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ray.refuse_silent_address(address)
    with pytest.raises(StudyError, match=f"address={address}: no Ray cluster answers there"):
        ray.refuse_silent_address(address)


def started_study(folder: Path) -> Ledger:
    """As `tune` leaves it before the first training."""
    given = TINY | {
        **{"train_images": "100", "batch_size": "50", "trials": str(TRIALS), "confirm": "false", "heartbeat": "2"},
        **{"sampler": "random", "checkpoint": "none", "resume": "none", "data_dir": str(folder / "data")},
    }
    put_scenes(folder)
    settings = TuneSettings.of(**given)
    prepare_store()
    dataset = load_dataset(settings, Reporter())
    ledger = Ledger.create(settings, tune.definition(settings, dataset))
    commission(ledger, settings)
    with open_run(kind="tune", name="study") as run:
        adopt(ledger, run.id)
    return ledger


@pytest.fixture
def two_nodes(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each, as two machines would be."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # which Ray replaces by its own
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False)
        yield cluster
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)


def wait_for(what: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    """What it returns as soon as that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert process.poll() is None, f"Ray's workers ended: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def workers_of(ledger: Ledger) -> list[int]:
    """Process ids of those that have a training in hand."""
    trials = ledger.search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [json.loads(trial.user_attrs["worker"])[1] for trial in trials if "run" in trial.user_attrs]


def two_stopped(ledger: Ledger, folder: Path) -> list[int]:
    """Both workers, as soon as each has a training in hand: they stand still, and so do not finish it meanwhile."""
    pids = workers_of(ledger)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    connection = sqlite3.connect(folder / "studies.db", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        free = False  # one of them stands still in a transaction, for whose end all others would wait in vain
    else:
        free = True
    finally:
        connection.close()
    if free and len(pids) == 2 and workers_of(ledger) == pids:
        return pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_every_training_is_done_once_though_a_worker_is_killed_and_a_machine_goes(store: Path, two_nodes: Any) -> None:
    ledger = started_study(store)
    words = ["--address", two_nodes.address, "--workers", "2", "--data_dir", str(store / "data")]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.tune", "ray", *words],
        env=os.environ | {"PGPASSWORD": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            pids = wait_for(lambda: two_stopped(ledger, store), process)
            head = two_nodes.head_node.all_processes["raylet"][0].process.pid
            (of_head,) = [pid for pid in pids if parent_of(pid) == head]
            (of_machine,) = [pid for pid in pids if pid != of_head]
            os.kill(of_head, signal.SIGKILL)
            two_nodes.remove_node(next(iter(two_nodes.worker_nodes)), allow_graceful=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(of_machine, signal.SIGKILL)  # with its machine
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
    tickets = ledger.tickets(ledger.search)
    states = [[trial.state for trial in ticket.attempts] for ticket in tickets]
    assert [ticket.number for ticket in tickets] == list(range(TRIALS))
    assert [attempts.count(TrialState.COMPLETE) for attempts in states] == [1] * TRIALS, said
    assert {attempt for attempts in states for attempt in attempts} == {TrialState.COMPLETE, TrialState.FAIL}
    assert sum(attempts.count(TrialState.FAIL) for attempts in states) >= 2
    runs = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
    trainings = [run for run in runs if "camparison.ticket" in run.data.tags]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(int(run.data.tags["camparison.ticket"]) for run in trainings) == list(range(TRIALS))
    assert f"{TRIALS} of {TRIALS}: " in said
    assert SECRET not in said
    logs = Path(two_nodes.head_node.get_logs_dir_path()).parent
    assert not [path for path in logs.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
