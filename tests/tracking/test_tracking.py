"""The tracking layer against real stores: a SQLite file, and a real server on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import nn

from experiments.models.fastnet import FastNet
from experiments.tracking import __main__, lifetime, views
from experiments.tracking.client import ERROR, FINGERPRINT, HOST, KIND, PID, PROCESS_START, STATUS
from experiments.tracking.lifetime import GoesOnElsewhere, StoppedEarly, set_parent, sweep_stale
from experiments.tracking.locations import TrackingError
from experiments.tracking.reading import DamagedFile, completed_run, finished_run, finished_training, finished_trainings
from experiments.tracking.records import (
    Arrays,
    DatasetUse,
    File,
    KeyedPicture,
    Metrics,
    Model,
    Param,
    Picture,
    Record,
    Table,
    Tag,
    Text,
)
from experiments.tracking.sender import sender
from experiments.tracking.store import prepare_store, relocate
from experiments.tracking.ui import save_view, ui_address
from experiments.tracking.writing import Run
from tests.conftest import PATIENCE_S, clean_environment, free_port, mlflow_server, run_where_the_project_is_not

pytestmark = pytest.mark.slow

# What programs of their own need.
IMPORTS = (
    "import time\n"
    "from experiments.tracking.lifetime import open_run\n"
    "from experiments.tracking.records import Metrics\n"
    "from experiments.tracking.store import prepare_store\n"
)
ORANGE = np.full((8, 6, 3), (255, 128, 0), np.uint8)


@pytest.fixture
def ready(store: Path) -> Path:
    """A test's folder whose store is prepared."""
    prepare_store()
    return store


def status(run_id: str) -> str:
    return MlflowClient().get_run(run_id).info.status


def tags_of(run_id: str) -> dict[str, str]:
    return MlflowClient().get_run(run_id).data.tags


def open_run(**changes: Any) -> AbstractContextManager[Run]:
    return lifetime.open_run(**{"kind": "train", "name": "baseline"} | changes)


def program(code: str, *arguments: str, **settings: object) -> "subprocess.Popen[str]":
    """A Python process of its own, with the project importable."""
    environment = clean_environment() | {name: str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fast_net() -> FastNet:
    torch.manual_seed(0)
    return FastNet(classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def every_record(module: nn.Module) -> list[Record]:
    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        scores = module.eval()(torch.from_numpy(images)).numpy()
    return [
        Param("epochs", 2),
        Param("cutout", True),
        Tag("note", "first"),
        Metrics({"val/accuracy": 0.25, "val/loss": 2.0}, step=0),
        Metrics({"val/accuracy": 0.5, "val/loss": 1.0}, step=1),
        Picture("galleries/correct.png", ORANGE),
        KeyedPicture("gradcam/test_0003_cat", ORANGE, step=1),
        Text("config.json", '{"epochs": 2, "of": "é"}'),
        Table("predictions.parquet", pd.DataFrame({"label": [3, 1], "cat": [0.5, 0.25]})),
        Table("table.csv", pd.DataFrame({"variant": ["baseline"], "accuracy": [0.5]})),
        Arrays("maps.npz", {"maps": np.arange(6, dtype=np.float32).reshape(2, 3), "index": np.array([4, 7])}),
        DatasetUse("scenes", "f" * 64, "drawn", {"train": 45_000, "val": 5_000}),
        Model(module, images, scores, step=1),
    ]


def check_everything_is_there(run_id: str) -> None:
    """What `every_record` logs comes back as it was."""
    run = finished_run(run_id)
    assert {key: run.params[key] for key in ("epochs", "cutout")} == {"epochs": "2", "cutout": "True"}
    assert (run.name, run.tags["note"], run.tags[KIND]) == ("baseline", "first", "train")
    assert run.metrics == {"val/accuracy": 0.5, "val/loss": 1.0}
    assert run.metric_history("val/accuracy") == [(0, 0.25), (1, 0.5)]
    assert run.metric_history("nothing") == []
    assert np.array_equal(run.read_picture("galleries/correct.png"), ORANGE)
    assert run.read_json("config.json") == {"epochs": 2, "of": "é"}
    assert run.read_table("predictions.parquet").to_dict("list") == {"label": [3, 1], "cat": [0.5, 0.25]}
    assert run.read_table("table.csv").to_dict("records") == [{"variant": "baseline", "accuracy": 0.5}]
    arrays = run.read_arrays("maps.npz")
    assert sorted(arrays) == ["index", "maps"]
    assert arrays["maps"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert run.list_keys() == ("gradcam/test_0003_cat",)
    assert run.tags["mlflow.loggedImages"] == "True"
    (used,) = MlflowClient().get_run(run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("scenes", "f" * 36)
    assert json.loads(used.dataset.source) == {"uri": "drawn", "digest": "f" * 64}
    with pytest.raises(TrackingError, match=r"run \w+ \(baseline\) has no file 'other.json'"):
        run.read_json("other.json")


# ----------------------------------------------------------------------------------------------------------- records


def test_what_is_logged_comes_back(ready: Path) -> None:
    with open_run() as run:
        run.log(every_record(fast_net()))
    check_everything_is_there(run.id)
    assert run.artifact_uri == f"{ready}/mlruns/0/{run.id}/artifacts"


def test_logging_says_nothing(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_run() as run:
            run.log(every_record(fast_net()))
        finished_run(run.id).load_model()
    assert capfd.readouterr() == ("", "")


def test_each_kind_of_record_is_one_call(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(MlflowClient, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*arguments, **named)

        return counted

    for name in ("log_batch", "log_artifacts", "log_image", "log_inputs"):
        monkeypatch.setattr(MlflowClient, name, counting(name))
    with open_run() as run:
        calls.clear()
        run.log([record for record in every_record(fast_net()) if not isinstance(record, Model)])
        sender().flush()
        # The tags that MLflow's grid of pictures needs are one more.
        assert sorted(calls) == ["log_artifacts", "log_batch", "log_batch", "log_batch", "log_batch", "log_inputs"]


def test_something_else_than_a_record_is_an_error_and_nothing_is_written(ready: Path) -> None:
    with open_run() as run:
        with pytest.raises(TypeError, match="dict is not a record"):
            run.log(iter([Param("epochs", 2), {"epochs": 2}]))  # the type checker does not look into an iterator
        assert MlflowClient().get_run(run.id).data.params == {}


def test_more_metrics_and_params_than_one_call_takes(ready: Path) -> None:
    with open_run() as run:
        run.log([Param(f"p{number}", number) for number in range(250)])
        run.log([Metrics({f"m{number}": float(number) for number in range(2300)}, step=0)])
    found = finished_run(run.id)
    assert len(found.params) == 250
    assert found.metrics["m2299"] == 2299


@pytest.mark.parametrize("record", [Param("recipe", "x" * 6001), Tag("note", "x" * 8001)])
def test_a_value_too_long_for_mlflow_is_an_error_not_cut(ready: Path, record: Param | Tag) -> None:
    with open_run() as run, pytest.raises(TrackingError, match=r"MLflow refuses a record of run \w+: .*exceeds"):
        run.log([record])


@pytest.mark.parametrize("path", ["../a.png", "/tmp/a.png", "a/../../b.png", ""])
def test_files_stay_inside_the_run(ready: Path, path: str) -> None:
    with open_run() as run, pytest.raises(ValueError, match="is not a path inside a run"):
        run.log([Picture(path, ORANGE)])


def test_a_table_needs_a_known_ending(ready: Path) -> None:
    with open_run() as run, pytest.raises(ValueError, match=r"must end in \.parquet, \.csv or \.json"):
        run.log([Table("predictions.xlsx", pd.DataFrame({"a": [1]}))])


def test_a_picture_key_that_mlflow_does_not_take_is_an_error(ready: Path) -> None:
    with open_run() as run, pytest.raises(ValueError, match="'gradcam/a:b' cannot be the key of a picture"):
        run.log([KeyedPicture("gradcam/a:b", ORANGE, 0)])


@pytest.mark.parametrize(("shape", "factor"), [((32, 32), 8), ((24, 48), 6), ((100, 30), 3), ((300, 20), 1)])
def test_small_pictures_are_enlarged_in_squares(ready: Path, shape: tuple[int, int], factor: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with open_run() as run:
        run.log([KeyedPicture("gradcam/a", image, 0)])
    (file,) = Path(run.artifact_uri, "images").glob("*.png")
    with Image.open(file) as picture:
        stored = np.asarray(picture)
    assert max(stored.shape) >= 256
    assert np.array_equal(stored, np.kron(image, np.ones((factor, factor, 1), np.uint8)))


# ------------------------------------------------------------------------------------------------------------- model


def test_a_logged_model_is_itself_and_its_hooks_fire(ready: Path) -> None:
    module = fast_net()
    records = every_record(module)
    path = list(sys.path)
    with open_run() as run:
        run.log(records)
    loaded = finished_run(run.id).load_model()
    seen = []
    layer = loaded.cam_layers[-1]
    loaded.get_submodule(layer).register_forward_hook(lambda *arguments: seen.append(arguments[2].shape))
    with torch.no_grad():
        scores = loaded(torch.from_numpy(records[-1].example_input))
    assert np.array_equal(scores.numpy(), records[-1].example_output)
    assert len(seen) == 1
    assert not loaded.training
    assert sys.path == path
    (weights,) = ready.rglob("model.pth")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"\(baseline\) has a damaged model: its content does not match its digest"):
        finished_run(run.id).load_model()


def test_a_model_loads_by_its_address_where_the_project_is_not(ready: Path, tmp_path: Path) -> None:
    module = fast_net()
    records = every_record(module)
    with open_run() as run:
        run.log(records)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, mlflow.pytorch, torch; mlflow.set_tracking_uri(sys.argv[1]);"
        "model = mlflow.pytorch.load_model(sys.argv[2]); fired = [];"
        "model.get_submodule(model.cam_layers[-1]).register_forward_hook(lambda *a: fired.append(1));"
        "print(model(torch.ones(1, 3, 32, 32))[0, 0].item(), len(fired), sys.modules['experiments'].__file__)"
    )
    address = (f"sqlite:///{ready}/mlflow.db", f"runs:/{run.id}/model")
    score, fired, source = run_where_the_project_is_not(code, *address, folder=elsewhere).split()
    with torch.no_grad():
        expected = module.eval()(torch.ones(1, 3, 32, 32))[0, 0].item()
    assert float(score) == pytest.approx(expected, rel=1e-5)
    assert fired == "1"
    assert source.endswith("/code/experiments/__init__.py")


def test_a_model_carries_signature_example_and_requirements(ready: Path) -> None:
    with open_run() as run:
        run.log(every_record(fast_net()))
    info = mlflow.models.get_model_info(f"runs:/{run.id}/model")
    assert info.signature.inputs.inputs[0].shape == (-1, 3, 32, 32)
    assert info.signature.outputs.inputs[0].shape == (-1, 10)
    (folder,) = Path(ready, "mlruns/0/models").iterdir()
    requirements = (folder / "artifacts/requirements.txt").read_text()
    assert re.search(r"^torch==\d+\.\d+\.\d+$", requirements, re.MULTILINE)
    assert not list(folder.rglob("__pycache__"))
    assert mlflow.models.Model.load(str(folder / "artifacts")).load_input_example(str(folder / "artifacts")).shape == (
        2,
        3,
        32,
        32,
    )


def test_logging_a_model_leaves_it_as_it_is(ready: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)).train()
    images = np.ones((1, 3, 2, 2), np.float32)
    with open_run() as run:
        run.log([Model(module, images, np.ones((1, 2), np.float32), step=0)])
    assert all(part.training for part in module.modules())


# --------------------------------------------------------------------------------------------------- the life of a run


def test_a_run_that_ends_well_is_completed(ready: Path) -> None:
    with open_run(tags={FINGERPRINT: "abc"}) as run:
        assert status(run.id) == "RUNNING"
        assert tags_of(run.id)[STATUS] == "started"
    assert status(run.id) == "FINISHED"
    tags = tags_of(run.id)
    assert (tags[STATUS], tags[FINGERPRINT]) == ("completed", "abc")
    assert (tags[PID], tags["mlflow.runName"]) == (str(os.getpid()), "baseline")


@pytest.mark.parametrize(("error", "expected"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_raises_is_closed_with_the_error(ready: Path, error: type[BaseException], expected: str) -> None:
    with pytest.raises(error, match="first line"), open_run() as run:
        raise error("first line\nsecond line")
    assert status(run.id) == expected
    tags = tags_of(run.id)
    assert (tags[STATUS], tags[ERROR]) == ("started", f"{error.__name__}: first line")


def test_children_open_and_close_while_the_parent_stays_open(ready: Path) -> None:
    with open_run(kind="compare", name="parent") as parent:
        children = []
        for name in ("baseline", "cutout"):
            with open_run(name=name, parent_run_id=parent.id) as child:
                child.log([Metrics({"a": 1.0}, step=0)])
            children.append(child.id)
            assert status(child.id) == "FINISHED"
            assert status(parent.id) == "RUNNING"
        with pytest.raises(ValueError, match="broken"), open_run(name="third", parent_run_id=parent.id) as third:
            raise ValueError("broken")
        parent.log([Metrics({"b": 1.0}, step=0)])
    assert [tags_of(child)["mlflow.parentRunId"] for child in [*children, third.id]] == [parent.id] * 3
    assert (status(third.id), status(parent.id)) == ("FAILED", "FINISHED")
    assert finished_run(parent.id).metrics == {"b": 1.0}


def test_the_run_of_mlflow_run_is_resumed_once_and_its_params_stay(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = MlflowClient().create_run("0", run_name="fun-shrimp-12", tags={"mlflow.source.git.commit": "c0ffee"})
    for key, value in {"lr": "0.10", "cutout": "true"}.items():
        MlflowClient().log_param(opened.info.run_id, key, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with open_run(name="cutout") as run:
        run.log([Param("lr", 0.1), Param("cutout", True), Param("cfg.lr", 0.1)])
        with open_run(name="child", parent_run_id=run.id) as child:
            pass
    assert run.id == opened.info.run_id != child.id
    found = finished_run(run.id)
    assert found.params == {"lr": "0.10", "cutout": "true", "cfg.lr": "0.1"}
    assert (found.name, found.tags["mlflow.source.git.commit"]) == ("cutout", "c0ffee")
    with open_run() as second:
        assert second.id != run.id


def test_a_child_that_is_opened_first_does_not_take_the_run_of_mlflow_run(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = MlflowClient().create_run("0").info.run_id
    opened = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    with open_run(parent_run_id=parent) as child:
        assert child.id != opened
    assert os.environ["MLFLOW_RUN_ID"] == opened


def test_an_unknown_run_is_an_error(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match="the run 'baseline' cannot be opened"), open_run(parent_run_id="0" * 32):
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", "1" * 32)
    with pytest.raises(TrackingError, match="the run 'baseline' cannot be opened"), open_run():
        pass


def test_experiments_are_chosen_by_the_environment(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run() as run:
        assert run.experiment_id == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    with open_run() as first, open_run() as second:
        assert first.experiment_id == second.experiment_id != "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with open_run() as run:
        assert run.experiment_id == "0"
    with open_run(parent_run_id=first.id) as child:
        assert child.experiment_id == first.experiment_id


def test_a_deleted_experiment_is_an_error(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = MlflowClient().create_experiment("old")
    MlflowClient().delete_experiment(number)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    with pytest.raises(TrackingError, match=f"the experiment 'old' is deleted: .*--experiment-id {number}"):
        prepare_store()


def test_the_commit_of_the_project_is_recorded(ready: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    with open_run() as run:
        pass
    assert tags_of(run.id)["mlflow.source.git.commit"] == head


def test_a_signal_ends_the_run_as_killed_and_the_program_with_143(ready: Path) -> None:
    code = (
        f"{IMPORTS}prepare_store()\n"
        "with open_run(kind='compare', name='p') as parent:\n"
        "    with open_run(kind='train', name='c', parent_run_id=parent.id) as run:\n"
        "        print(parent.id, run.id, flush=True); time.sleep(86400)\n"
    )
    process = program(code)
    ids = process.stdout.readline().split()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (143, "")
    assert [status(run_id) for run_id in ids] == ["KILLED", "KILLED"]
    assert [tags_of(run_id)[ERROR] for run_id in ids] == ["Terminated: 143"] * 2


def test_the_signal_handler_is_put_back(ready: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with open_run():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_runs_of_dead_processes_are_swept_and_no_others(ready: Path) -> None:
    code = (
        f"{IMPORTS}prepare_store()\n"
        "with open_run(kind='train', name='c') as run:\n"
        "    print(run.id, flush=True); time.sleep(86400)\n"
    )
    process = program(code)
    dead = process.stdout.readline().strip()
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert status(dead) == "RUNNING"
    foreign = MlflowClient().create_run("0", tags={HOST: "elsewhere", PID: "1"}).info.run_id
    with open_run() as run:
        # This process, but as one with its number that started at another time.
        reused = {**tags_of(run.id), PROCESS_START: "1"}
        reborn = MlflowClient().create_run("0", tags=reused).info.run_id
        assert sorted(sweep_stale()) == sorted([dead, reborn])
        assert [status(run_id) for run_id in (dead, reborn, foreign, run.id)] == [
            "KILLED",
            "KILLED",
            "RUNNING",
            "RUNNING",
        ]
        assert sweep_stale() == []


# ---------------------------------------------------------------------------------------------------- finished runs


def test_a_completed_run_is_found_by_its_fingerprint(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed_run("abc") is None
    with open_run(tags={FINGERPRINT: "abc"}) as first:
        assert completed_run("abc") is None  # still running
    assert completed_run("abc").id == first.id
    assert completed_run("ab") is None
    with pytest.raises(ValueError, match="broken"), open_run(tags={FINGERPRINT: "abc"}):
        raise ValueError("broken")
    assert completed_run("abc").id == first.id
    time.sleep(0.002)  # MLflow orders by milliseconds
    with open_run(tags={FINGERPRINT: "abc"}) as newer:
        pass
    assert completed_run("abc").id == newer.id
    MlflowClient().delete_run(newer.id)
    assert completed_run("abc").id == first.id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    assert completed_run("abc") is None
    assert completed_run("abc", experiment_id="0").id == first.id


def test_a_fingerprint_cannot_break_out_of_the_search(ready: Path) -> None:
    with pytest.raises(ValueError, match="is not a fingerprint"):
        completed_run("a' OR '1' = '1")


def test_an_unfinished_or_unknown_run_is_an_error(ready: Path) -> None:
    with pytest.raises(ValueError, match="loss"), open_run() as run:
        raise ValueError("the loss is nan")
    with pytest.raises(TrackingError, match=r"did not complete \(status FAILED, ValueError: the loss is nan\)"):
        finished_run(run.id)
    with pytest.raises(TrackingError, match=r"sqlite:.*/mlflow\.db has no run 'x'"):
        finished_run("x")


def test_a_training_is_found_by_the_beginning_of_its_id(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run() as run:
        run.log([Metrics({"val/accuracy": 0.5}, step=0)])
        with pytest.raises(
            TrackingError, match=rf"run {run.id} did not complete \(status RUNNING, .*\): wait until it ends"
        ):
            finished_training(run.id[:6])
    assert finished_training(run.id[:6]) == finished_training(run.id) == finished_run(run.id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    with open_run() as other:
        pass
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert finished_training(other.id[:8]).experiment_id != "0"


def test_a_beginning_that_fits_no_training_is_named_with_the_nearest(ready: Path) -> None:
    with open_run(kind="compare", name="two nets") as run:
        pass
    with pytest.raises(
        TrackingError, match=rf"run {run.id} \(two nets\) is of kind 'compare': give the ids of trainings"
    ):
        finished_training(run.id)
    foreign = MlflowClient().create_run("0", run_name="hello").info.run_id
    with pytest.raises(TrackingError, match=rf"run {foreign} \(hello\) is of another program"):
        finished_training(foreign)
    with open_run() as training:
        pass
    slip = training.id[:7] + next(digit for digit in "0123456789abcdef" if digit != training.id[7])
    with pytest.raises(TrackingError, match=rf"begins with '{slip}'; did you mean {training.id[:8]} \(baseline\)\?"):
        finished_training(slip)
    far = "".join("1" if digit == "0" else "0" for digit in training.id)
    with pytest.raises(TrackingError, match=rf"no run id begins with '{far}': MLflow's UI shows the id"):
        finished_training(far)
    with pytest.raises(ValueError, match="is not the beginning of a run id"):
        finished_training("' OR '1' = '1")


def test_trainings_are_found_by_filter_the_oldest_first(ready: Path) -> None:
    made = []
    for epochs in (6, 6, 3):
        with open_run() as run:
            run.log([Param("resolved.epochs", epochs)])
        made.append(run.id)
        time.sleep(0.002)  # MLflow orders by milliseconds
    with open_run(kind="compare") as comparison:
        comparison.log([Param("resolved.epochs", 6)])
    with pytest.raises(ValueError, match="broken"), open_run(tags={"broken": "yes"}) as broken:
        raise ValueError("broken")
    assert [run.id for run in finished_trainings("params.`resolved.epochs` = '6'")] == made[:2]
    assert [run.id for run in finished_trainings("attributes.status = 'FINISHED'")] == made
    with pytest.raises(TrackingError, match=r"^\"tags.a = 'b'\" matches no completed training$"):
        finished_trainings("tags.a = 'b'")
    with pytest.raises(TrackingError, match=rf"no completed training, only such as {broken.id} \(baseline, FAILED\)$"):
        finished_trainings("tags.broken = 'yes'")


@pytest.mark.parametrize(
    "text", ["epochs is six", "params.epochs = 6", "params.a = 'b' OR params.a = 'c'", "metrics.a > 'x'"]
)
def test_a_filter_that_mlflow_does_not_take_is_an_error_in_one_line(ready: Path, text: str) -> None:
    with pytest.raises(TrackingError, match=r"^MLflow does not accept [\"'].*\(MlflowException: .+\)$"):
        finished_trainings(text)


def test_more_runs_than_one_answer_of_mlflow_holds(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *given, **named: real(*given, **named, max_results=2))
    made = set()
    for _ in range(5):
        with open_run() as run:
            made.add(run.id)
    assert {run.id for run in finished_trainings("attributes.status = 'FINISHED'")} == made


# ------------------------------------------------------------------------------------------------------------- views


def make_view(name: str, run: Run) -> views.View:
    return views.comparison_view(name, [run.id], ["gradcam/a"], 0, colours=["#112233", "#445566"])


def test_a_view_is_kept_and_linked_in_the_note(ready: Path) -> None:
    with open_run() as run:
        pass
    one, two = make_view("one", run), make_view("two", run)
    client = MlflowClient()
    client.set_experiment_tag("0", "mlflow.note.content", "My own words.\n\nMore of them.")
    link = save_view("0", one)
    assert link == views.fragment("0", one.key)
    time.sleep(0.002)
    save_view("0", two)
    save_view("0", one)
    tags = client.get_experiment("0").tags
    assert views.unpack(tags[two.tag]) == two
    kept = client.get_run(run.id).data.tags
    assert {kept[view.column_tag] for view in (one, two)} == {views.column(0)}
    assert kept[views.COLOUR] == "#112233"
    lines = [line for line in tags["mlflow.note.content"].splitlines() if line]
    assert lines == [
        f"[one]({views.fragment('0', one.key)})",
        f"[two]({views.fragment('0', two.key)})",
        "My own words.",
        "More of them.",
    ]


def test_the_address_of_the_ui(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ui_address("#/experiments/0") == "http://127.0.0.1:5000/#/experiments/0"
    monkeypatch.setenv("CAMPARISON_UI", "http://gpu-box:8080/")
    assert ui_address("#/x") == "http://gpu-box:8080/#/x"
    mlflow.set_tracking_uri("http://server:5001")
    assert ui_address("#/x") == "http://server:5001/#/x"


# --------------------------------------------------------------------------------------------------------- the store


def test_the_store_is_mlflows_default_and_absolute(store: Path) -> None:
    assert prepare_store() == f"sqlite:///{store}/mlflow.db" == mlflow.get_tracking_uri()
    assert prepare_store() == mlflow.get_tracking_uri()  # again, in the same process


def test_a_store_given_by_a_relative_address_is_found_from_the_project(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move("mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert prepare_store() == f"sqlite:///{store}/other.db"


def test_several_processes_may_start_on_a_new_folder_at_once(tmp_path: Path) -> None:
    code = (
        f"{IMPORTS}prepare_store()\n"
        "with open_run(kind='train', name='c') as run:\n"
        "    run.log([Metrics({'a': float(i)}, step=i) for i in range(20)])\n"
        "print(run.id)\n"
    )
    processes = [program(code) for _ in range(2)]
    ended = [(process.communicate(timeout=PATIENCE_S), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 2
    said = [line for (_, errors), _ in ended for line in errors.splitlines()]
    assert all(line.startswith("waiting for the tracking store ") for line in said)
    prepare_store()
    assert [len(finished_run(out.strip()).metric_history("a")) for (out, _), _ in ended] == [20] * 2


def test_the_former_file_store_is_named(store: Path) -> None:
    Path("mlruns/0").mkdir(parents=True)
    Path("mlruns/0/meta.yaml").touch()
    with pytest.raises(TrackingError, match=r"mlruns/0 is of MLflow's former file store"):
        prepare_store()


def test_a_moved_folder_is_named_and_can_be_relocated(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_store()
    with open_run(tags={FINGERPRINT: "abc"}) as run:
        run.log(every_record(fast_net()))
    mlflow.set_tracking_uri(None)
    new = tmp_path / "it's 100% new"
    new.mkdir()
    for name in ("mlflow.db", "mlruns"):
        shutil.move(name, new)
    monkeypatch.chdir(new)
    with pytest.raises(
        TrackingError, match=f"recorded under {tmp_path}, but the project is now in {re.escape(str(new))}"
    ):
        prepare_store()
    assert "records moved" in relocate()
    mlflow.set_tracking_uri(None)
    prepare_store()
    check_everything_is_there(run.id)
    finished_run(run.id).load_model()
    with open_run() as run:
        assert run.artifact_uri.startswith(f"{new}/mlruns/0/")
    with pytest.raises(TrackingError, match="nothing to relocate"):
        relocate()


def test_a_store_elsewhere_keeps_its_files_where_it_wants(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    prepare_store()
    with open_run() as run:
        assert run.artifact_uri.startswith(f"{store}/mlruns/0/")


def test_a_server_location_in_a_store_elsewhere_is_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect("mlflow.db")
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    connection.close()
    shutil.move("mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/other.db")
    with pytest.raises(TrackingError, match="'Default' are on an MLflow server: set MLFLOW_TRACKING_URI"):
        prepare_store()


def test_a_location_on_a_named_server_is_left_alone(store: Path) -> None:
    connection = sqlite3.connect("mlflow.db")
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts://host:5000/0'")
    connection.close()
    with pytest.raises(TrackingError, match="'Default' are on an MLflow server"):
        prepare_store()


# ---------------------------------------------------------------------------------------------------------- commands


def test_the_commands_say_in_one_line_what_is_wrong(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert __main__.main(["prepare"]) == 0
    assert capsys.readouterr().out == f"tracking store: sqlite:///{store}/mlflow.db\n"
    assert __main__.main(["relocate"]) == 1
    assert "nothing to relocate" in capsys.readouterr().err
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert __main__.main(["ui", "--port", str(port)]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert f"port {port} cannot be used" in errors
    assert "--port" in errors


# ------------------------------------------------------------------------------------------------------- real servers


def served_picture(address: str, run_id: str, path: str) -> np.ndarray:
    """The picture as the UI asks the server for it."""
    query = urllib.parse.urlencode({"run_uuid": run_id, "path": path})
    with urllib.request.urlopen(f"{address}/get-artifact?{query}", timeout=PATIENCE_S) as answer:
        return np.asarray(Image.open(answer).convert("RGB"))


def listed_pictures(address: str, run_id: str) -> list[str]:
    query = urllib.parse.urlencode({"run_id": run_id, "path": "images"})
    with urllib.request.urlopen(f"{address}/api/2.0/mlflow/artifacts/list?{query}", timeout=PATIENCE_S) as answer:
        return [file["path"] for file in json.load(answer).get("files", [])]


def test_a_plain_server_that_came_first_serves_clients_and_direct_runs_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_server(tmp_path, ["mlflow", "ui", "--workers", "1"], free_port()) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert prepare_store() == address
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        location = MlflowClient().get_experiment("0").artifact_location
        assert location == "mlflow-artifacts:/0"  # the trap is there
        with open_run(tags={FINGERPRINT: "abc"}) as client_run:
            client_run.log(every_record(fast_net()))
        check_everything_is_there(client_run.id)
        assert not finished_run(client_run.id).load_model().training
        assert completed_run("abc").id == client_run.id

        mlflow.set_tracking_uri(None)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # As `mlflow run` does before the program starts: a run whose files only that server could take.
        direct = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        opened = direct.create_run("0").info
        assert opened.artifact_uri.startswith("mlflow-artifacts:/0/")
        monkeypatch.setenv("MLFLOW_RUN_ID", opened.run_id)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        prepare_store()
        with open_run() as run:
            run.log(every_record(fast_net()))
        assert run.id == opened.run_id
        for run_id in (run.id, client_run.id):
            check_everything_is_there(run_id)
            finished_run(run_id).load_model()
            assert np.array_equal(served_picture(address, run_id, "galleries/correct.png"), ORANGE)
            keyed = [path for path in listed_pictures(address, run_id) if path.endswith(".png")]
            assert (np.unique(served_picture(address, run_id, keyed[0]).reshape(-1, 3), axis=0) == ORANGE[0, 0]).all()


def test_our_own_ui_shows_the_files_of_direct_runs_and_springs_no_trap(ready: Path) -> None:
    with open_run() as run:
        run.log([Picture("galleries/correct.png", ORANGE)])
    link = save_view("0", make_view("side by side", run))
    port = free_port()
    with mlflow_server(ready, ["experiments.tracking", "ui"], port) as address:
        assert np.array_equal(served_picture(address, run.id, "galleries/correct.png"), ORANGE)
        made = MlflowClient(address).create_experiment("made in the UI")
        assert MlflowClient().get_experiment(made).artifact_location == f"{ready}/mlruns/{made}"
        printed = (ready / "server.log").read_text()
        assert f"MLflow UI: http://127.0.0.1:{port}/" in printed
        assert f"side by side: http://127.0.0.1:{port}/{link}" in printed


# ------------------------------------------------------------------------------------------- what studies need of runs


def test_a_child_whose_process_died_is_opened_again(ready: Path) -> None:
    with open_run(kind="tune", name="study") as parent:
        with pytest.raises(KeyboardInterrupt), open_run(parent_run_id=parent.id) as first:
            raise KeyboardInterrupt
        with open_run(name="again", parent_run_id=parent.id, again=first.id) as second:
            assert status(second.id) == "RUNNING"
            second.log([Metrics({"val/accuracy": 0.5}, 2)])
        assert second.id == first.id
        found = finished_run(first.id)
        assert found.metrics == {"val/accuracy": 0.5}
        assert found.name == "again"
        assert found.tags["mlflow.parentRunId"] == parent.id
        MlflowClient().delete_run(first.id)
        with open_run(parent_run_id=parent.id, again=first.id) as third:
            pass
    assert third.id != first.id


def test_a_run_stopped_early_is_finished_but_not_completed(ready: Path) -> None:
    with (
        pytest.raises(StoppedEarly),
        open_run(tags={FINGERPRINT: "abc"}) as run,
    ):
        raise StoppedEarly("promises too little")
    assert status(run.id) == "FINISHED"
    assert tags_of(run.id)[STATUS] == "stopped early"
    assert ERROR not in tags_of(run.id)
    assert completed_run("abc") is None


def test_a_run_that_goes_on_elsewhere_is_left_as_it_is(ready: Path) -> None:
    with pytest.raises(GoesOnElsewhere), open_run() as run:
        raise GoesOnElsewhere("given to another worker")
    assert (status(run.id), tags_of(run.id)[STATUS]) == ("RUNNING", "started")
    assert ERROR not in tags_of(run.id)
    MlflowClient().set_terminated(run.id)


def test_runs_are_hung_below_another_one_where_they_still_exist(ready: Path) -> None:
    runs = []
    for _ in range(3):
        with open_run() as run:
            runs.append(run.id)
    MlflowClient().delete_run(runs[1])
    set_parent([runs[0], runs[1], "0" * 32], runs[2])
    assert tags_of(runs[0])["mlflow.parentRunId"] == runs[2]
    assert "mlflow.parentRunId" not in tags_of(runs[1])


def test_a_file_is_logged_byte_by_byte(ready: Path) -> None:
    content = bytes(range(256))
    with open_run() as run:
        run.log([File("a/study.db", content)])
    assert Path(run.artifact_uri, "a/study.db").read_bytes() == content


def test_a_damaged_file_is_named(ready: Path) -> None:
    with open_run() as run:
        run.log(every_record(fast_net()))
    found = finished_run(run.id)
    readers: dict[str, Callable[[str], object]] = {
        "predictions.parquet": found.read_table,
        "maps.npz": found.read_arrays,
        "galleries/correct.png": found.read_picture,
    }
    for name, read in readers.items():
        file = Path(run.artifact_uri, name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DamagedFile, match=rf"^run {run.id} \(baseline\) has a damaged {name}: "):
            read(name)
