"""A study through its command line: what it leaves, and that it is not done twice."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from experiments.runs.contents import NEAR_CHANCE
from experiments.settings.command_line import words_of
from experiments.settings.train import TrainSettings
from experiments.settings.variants import OWN
from tests.conftest import PATIENCE_S, clean_environment, put_store
from tests.toys import scenes

pytestmark = pytest.mark.slow

TINY = scenes.TINY | {"train_images": "50", "study": "tiny"}


def run(folder: Path, module: str, **options: str) -> str:
    """The output of the command, which must succeed."""
    command = [sys.executable, "-m", module, *words_of(options)]
    environment = clean_environment()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs_in(folder: Path) -> list[Run]:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["0"])


def parents(folder: Path) -> list[Run]:
    return [run for run in runs_in(folder) if run.data.tags["camparison.kind"] == "tune"]


def files_of(parent: Run) -> Path:
    return Path(parent.info.artifact_uri.removeprefix("file://"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ready_store: Path) -> Path:
    """Where a study of 15 trainings has run."""
    place = tmp_path_factory.mktemp("study")
    put_store(ready_store, place)
    scenes.put_scenes(place)
    assert "15 of 15: final" in run(place, "experiments.tune", **TINY | {"trials": "15"})
    return place


def test_the_study_s_run_holds_everything(folder: Path) -> None:
    (parent,) = parents(folder)
    assert parent.info.status == "FINISHED"
    files = files_of(parent)
    expected = {"trials.csv", "candidates.csv", "best.txt", "best.toml", "study.db", "tuning.json", "report.html"}
    assert expected <= {path.name for path in files.iterdir()}
    assert {"history.png", "slice.png", "forest.png"} <= {path.name for path in (files / "charts").iterdir()}
    assert (files / "side_by_side.png").exists()
    told = json.loads((files / "tuning.json").read_text())
    assert parent.data.tags["mlflow.note.content"].startswith(told["verdict"][0])
    assert len(told["final"]["seeds"]) == 3
    assert parent.data.metrics["tune/complete"] == 15


def test_every_training_is_a_run_below_it_and_the_confirmed_ones_keep_their_model(folder: Path) -> None:
    (parent,) = parents(folder)
    table = pd.read_csv(files_of(parent) / "trials.csv")
    children = {run.info.run_id: run for run in runs_in(folder) if run.info.run_id != parent.info.run_id}
    assert set(table["run"]) == set(children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    models = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_logged_models(["0"])
    assert {model.source_run_id for model in models} == set(table.loc[table["part"] != "search", "run"])
    for row in table.to_dict("records"):
        assert children[row["run"]].data.metrics["val/accuracy"] == row["val/accuracy"]
        assert (NEAR_CHANCE in children[row["run"]].data.tags) == row["near_chance"]
    told = json.loads((files_of(parent) / "tuning.json").read_text())["verdict"]
    assert table["near_chance"].any() == any(line.endswith("their scores say little about the holes.") for line in told)


def test_the_copied_database_is_the_study(folder: Path) -> None:
    (parent,) = parents(folder)
    for name in ("tiny", "confirmation of tiny"):
        copied = optuna.load_study(study_name=name, storage=f"sqlite:///{files_of(parent)}/study.db")
        own = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/studies.db")
        assert [trial.values for trial in copied.trials] == [trial.values for trial in own.trials]


def test_the_best_settings_are_a_recipe_that_trains_them(folder: Path) -> None:
    (parent,) = parents(folder)
    files = files_of(parent)
    best = json.loads((files / "tuning.json").read_text())["best"]
    settings = TrainSettings.of(recipe=str(files / "best.toml"))
    assert {name: getattr(settings, name) for name in best["options"]} == best["options"]
    words = (files / "best.txt").read_text().split()
    assert words[:3] == ["mlflow", "run", "."]
    assert dict(word.split("=", 1) for word in words[4::2])["cutout"] == str(best["options"]["cutout"]).lower()


def test_its_confirmed_runs_can_be_compared(folder: Path) -> None:
    run(folder, "experiments.compare", study="tiny", quiet="true")
    (compared,) = [one for one in runs_in(folder) if one.data.tags["camparison.kind"] == "compare"]
    found = json.loads((files_of(compared) / "comparison.json").read_text())
    assert found["variants"][0] == OWN
    assert len(found["variants"]) == 2
    assert len(found["runs"]) == 6


def test_the_same_command_again_trains_nothing(folder: Path) -> None:
    before = {one.info.run_id for one in runs_in(folder)}
    assert "15 of 15 trainings are done" in run(folder, "experiments.tune", **TINY | {"trials": "15"})
    new = [one for one in runs_in(folder) if one.info.run_id not in before]
    assert [one.data.tags["camparison.kind"] for one in new] == ["tune"]
    children = [one for one in runs_in(folder) if one.data.tags.get("mlflow.parentRunId") == new[0].info.run_id]
    assert len(children) == 15


def test_several_objectives_give_a_front_and_measure_maps_on_validation_images(store: Path) -> None:
    scenes.put_scenes(store)
    options = TINY | {"objectives": "val/accuracy,cam/layer3/focus", "trials": "4", "confirm": "false", "workers": "1"}
    run(store, "experiments.tune", **options)
    (parent,) = parents(store)
    table = pd.read_csv(files_of(parent) / "trials.csv")
    assert len(table) == 4
    metrics = {one.info.run_id: one.data.metrics for one in runs_in(store)}
    for row in table.to_dict("records"):
        assert metrics[row["run"]]["val/cam/layer3/focus"] == row["cam/layer3/focus"]
    assert (files_of(parent) / "charts" / "pareto.png").exists()
