"""What the README tells people to type works, from a fresh copy of the project, as they would type it."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from experiments.config import CompareSettings, TrainSettings, plan
from experiments.data import load
from experiments.tune_settings import TuneSettings
from tests.conftest import copy_project, run_mlflow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# With the flag for users without conda left out, many are the same.
COMMANDS = sorted(
    {
        re.sub(r" --env-manager=\w+| \.\.\.", "", command).strip()
        for command in re.findall(r"mlflow run \.(?: [^`\n]*)?", README)
    }
)
QUICK = {"dataset": "scenes", "train_images": "100", "epochs": "1", "gallery_size": "2", "threads": "1"}
QUICK |= {"model": "fastnet"}  # of every recipe
QUICK_STUDY = {"trials": "3", "confirm": "false", "workers": "1"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drawn scenes, so that not every command draws them again."""
    folder = tmp_path_factory.mktemp("data")
    load("scenes", data_dir=str(folder), image_size="auto", background_bias=0.5, train_images="all")
    return folder


@pytest.fixture
def clone(store: Path) -> Path:
    """The project as a fresh clone has it, with a ready store."""
    copy_project(store)
    return store


def options_of(command: str) -> tuple[str, dict[str, str]]:
    """The entry point of an `mlflow run` command and its -P options."""
    words = shlex.split(command)[3:]
    entry, options = "main", {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag == "-e":
            entry = value
        else:
            assert flag == "-P"
            name, _, text = value.partition("=")
            options[name] = text
    return entry, options


def test_the_readme_shows_every_entry_point() -> None:
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert {options_of(command)[0] for command in COMMANDS} == set(entries)
    for entry in entries:
        assert f"| `{entry}` |" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_every_command_are_accepted(command: str) -> None:
    entry, options = options_of(command)
    if entry == "compare":
        assert plan(CompareSettings.of(**options), options)
    elif entry == "tune":
        assert TuneSettings.of(**options).baseline_options()
    else:
        TrainSettings.of(**{"cutout": str(entry == "cutout")} | options)


def test_the_option_table_tells_the_true_defaults() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]* \| ([^|]*) \|$", README, re.MULTILINE)
    assert len(rows) > 4
    for names, defaults in rows:
        for name, default in zip(re.findall(r"`(\w+)`", names), re.findall(r"`([\w,:/.-]+)`", defaults), strict=False):
            kinds = [kind for kind in (TrainSettings, CompareSettings, TuneSettings) if name in kind.model_fields]
            assert default in {kind.default_text(name) for kind in kinds} | {TrainSettings.of().as_params().get(name)}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_from_a_fresh_clone(command: str, clone: Path, scenes: Path) -> None:
    entry, options = options_of(command)
    options |= QUICK | {"data_dir": str(scenes)} | (QUICK_STUDY if entry == "tune" else {})
    given = [f"-P{name}={value}" for name, value in options.items()]
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "run", ".", "-e", entry, "--env-manager=local", *given]
    done = run_mlflow(mlflow, clone)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = MlflowClient(f"sqlite:///{clone}/mlflow.db").search_runs(["0"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["camparison.status"] for run in runs} == {"completed"}
    kinds = [run.data.tags["camparison.kind"] for run in runs]
    if entry == "compare":
        expected = len(plan(CompareSettings.of(**options), options))
        assert sorted(kinds) == ["compare"] + ["train"] * expected
        assert "viewStateShareKey" in done.stdout
        assert Path(re.search(r"/\S+report\.html", done.stdout)[0]).exists()  # type: ignore[index]
    elif entry == "tune":
        assert sorted(kinds) == ["train"] * 3 + ["tune"]
        assert "viewStateShareKey" in done.stdout
    else:
        assert kinds == ["train"]
        assert "test accuracy" in done.stdout


@pytest.mark.slow
def test_a_misspelt_option_fails_the_run_with_the_nearest_name(clone: Path) -> None:
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "run", ".", "--env-manager=local", "-P", "cuttout=true"]
    done = run_mlflow(mlflow, clone)
    assert done.returncode != 0
    assert "unknown option 'cuttout'; did you mean 'cutout'?" in done.stderr
    assert [run.info.status for run in MlflowClient(f"sqlite:///{clone}/mlflow.db").search_runs(["0"])] == ["FAILED"]
