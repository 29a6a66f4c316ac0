"""What a study refuses, in one line and before anything is created; and what follows from its settings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import tune
from experiments.data.dataset import Split
from experiments.explaining import measuring
from experiments.models.fastnet import FastNet
from experiments.settings.base import SettingsError
from experiments.study.addresses import STORAGE as STORAGE_VARIABLE
from experiments.study.addresses import check_storage
from experiments.study.settings import HOLE_OPTIONS, MEASURES, NO_CUTOUT, OWN, PUBLISHED, TuneSettings, common_options
from experiments.study.tune import refuse_short_grid
from experiments.system.secrets import without_password
from experiments.training.predictions import Predictions
from tests.conftest import clean_environment

MEASURE_NAMES = "focus, energy, lift, pointing, auc, iou, recall, precision, border, dead"
OBJECTIVE = f"is no objective: val/accuracy, val/loss or cam/<layer>/<measure>, the measure one of {MEASURE_NAMES}"
SHARES = "must be a range of shares such as 0.125-0.75, above 0 and up to 1"
STORAGE = "must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"
SEVERAL = "must be none, or two or three different ones, such as val/accuracy,cam/layer3/focus"
HOLES = "a baseline may set cutout, cutout_holes, cutout_size, cutout_p, cutout_fill, cutout_placement"

BAD = [
    ({"objective": "val/acuracy"}, f"objective=val/acuracy: 'val/acuracy' {OBJECTIVE}; did you mean 'val/accuracy'?"),
    (
        {"objective": "test/accuracy"},
        "objective=test/accuracy: 'test/accuracy' is of the test images, on which nothing may be chosen; "
        "take val/accuracy",
    ),
    (
        {"objective": "cam/layer3/focsu"},
        f"objective=cam/layer3/focsu: 'cam/layer3/focsu' {OBJECTIVE}; did you mean 'focus'?",
    ),
    ({"objective": "cam/focus"}, f"objective=cam/focus: 'cam/focus' {OBJECTIVE}"),
    ({"objectives": "val/accuracy"}, f"objectives=val/accuracy: {SEVERAL}"),
    ({"objectives": "val/loss,val/loss"}, f"objectives=val/loss,val/loss: {SEVERAL}"),
    (
        {"objectives": "val/accuracy,test/loss"},
        "objectives=val/accuracy,test/loss: 'test/loss' is of the test images, on which nothing may be chosen; "
        "take val/accuracy",
    ),
    (
        {"objective": "cam/layer3/focus", "pruner": "median"},
        "pruner=median: maps are measured only after the last epoch; leave out pruner",
    ),
    (
        {"sampler": "cmaes", "objectives": "val/accuracy,val/loss"},
        "sampler=cmaes: works with one objective only; take tpe or gp, or leave out objectives",
    ),
    (
        {"objective": "val/loss", "objectives": "val/accuracy,val/loss"},
        "objective=val/loss: objectives=val/accuracy,val/loss is given too; give only one",
    ),
    (
        {"objectives": "val/accuracy,cam/layer3/focus", "pruner": "median"},
        "pruner=median: works with one objective only; leave out pruner or objectives",
    ),
    (
        {"sampler": "tpee"},
        "sampler=tpee: must be one of tpe, gp, random, grid, brute_force, qmc, cmaes; did you mean 'tpe'?",
    ),
    (
        {"pruner": "medain"},
        "pruner=medain: must be one of none, median, hyperband, successive_halving, patient; did you mean 'median'?",
    ),
    ({"space_size": "0.5-1.2"}, f"space_size=0.5-1.2: {SHARES}"),
    ({"space_size": "0-0.5"}, f"space_size=0-0.5: {SHARES}"),
    ({"space_size": "0.75-0.5"}, f"space_size=0.75-0.5: {SHARES}"),
    ({"space_size": "8"}, f"space_size=8: {SHARES}"),
    ({"space_p": "0.5-1.5"}, f"space_p=0.5-1.5: {SHARES}"),
    ({"space_holes": "4-2"}, "space_holes=4-2: must be a range such as 0-4, from 0 (no Cutout) to 64"),
    ({"space_holes": "0-0"}, "space_holes=0-0: must be a range such as 0-4, from 0 (no Cutout) to 64"),
    ({"space_holes": "1-65"}, "space_holes=1-65: must be a range such as 0-4, from 0 (no Cutout) to 64"),
    (
        {"space_shape": "rectangles"},
        "space_shape=rectangles: must be one of square, rectangle; did you mean 'rectangle'?",
    ),
    (
        {"space_fill": "mean,nosie"},
        "space_fill=mean,nosie: 'nosie' must be one of mean, black, random, noise; did you mean 'noise'?",
    ),
    ({"space_fill": "mean,mean"}, "space_fill=mean,mean: contains a name twice; name each once"),
    (
        {"space_placement": "insde"},
        "space_placement=insde: 'insde' must be one of published, inside; did you mean 'inside'?",
    ),
    (
        {"trials": "14"},
        "trials=14: too few for a search and a confirmation; give 15 or more, or add confirm=false for a search only",
    ),
    ({"holdout": "false"}, "holdout=false: leaves no validation images to search on; add holdout=true"),
    ({"checkpoint": "a.pt"}, "checkpoint=a.pt: a study has many trainings; take auto or none"),
    ({"study": "none"}, "study=none: means no study in `compare`; give the study another name"),
    ({"study": "a/b"}, "study=a/b: must be a name of at most 100 letters, digits, _ . -"),
    ({"storage": "studies.db"}, f"storage=studies.db: {STORAGE}"),
    ({"storage": "sqlite:///"}, f"storage=sqlite:///: {STORAGE}"),
    ({"storage": "mysql://me:5ecret@host/db"}, "storage=mysql://me:***@host/db: " + STORAGE),
    ({"storage": "postgresql://me:5e/cret@host/db"}, f"storage=postgresql://me:***@host/db: {STORAGE}"),
    (
        {"storage": "postgresql://host/db?password=5ecret"},
        "storage=postgresql://host/db?password=***: put the password in PGPASSWORD or ~/.pgpass",
    ),
    ({"baselines": "small: lr=1"}, f"baselines: small: lr is the same in all trials; {HOLES}"),
    (
        {"baselines": "small: cutout_size=8"},
        "baselines: small: cutout_size=8: has no effect while cutout is false; add cutout=true or leave cutout_size "
        "out",
    ),
    (
        {"baselines": "large: cutout=true cutout_size=33"},
        "baselines: large: cutout_size=33: must be at most the images' side of 32 pixels",
    ),
    (
        {"baselines": "cuttout"},
        "baselines: unknown variant 'cuttout'; known variants: baseline, cutout; did you mean 'cutout'?",
    ),
    ({"trails": "40"}, "unknown option 'trails'; did you mean 'trials'?"),
]


@pytest.mark.parametrize(("typed", "problem"), BAD)
def test_what_cannot_be_done_is_refused_in_one_line(typed: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TuneSettings.of(**typed).baseline_options()
    (line,) = refused.value.problems
    assert line.startswith(problem)
    assert "\n" not in line
    assert "cret" not in line


@pytest.mark.parametrize(
    "typed",
    [
        ["--objective", "test/accuracy"],
        ["--baselines", "small: lr=1"],
        ["worker", "--storage", "postgresql://me:5e/cret@host/db"],
        ["worker", "--storge", "sqlite:///b.db"],
        ["ray", "--workers", "many"],
        ["ray", "workers=2"],
    ],
)
def test_the_command_refuses_with_2_and_creates_nothing(tmp_path: Path, typed: list[str]) -> None:
    command = [sys.executable, "-m", "experiments.tune", *typed]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("python -m experiments.tune")
    assert "nothing was started" in second
    assert "cret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_a_study_that_is_not_there_makes_no_database(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tune.main(["worker", "--study", "holes"])
    said = capsys.readouterr().err
    assert "study=holes: sqlite:///studies.db contains no study with this name; start it with `mlflow run" in said
    assert "-e tune -P study=holes`" in said
    assert not list(store.glob("studies.db*"))


def refused(address: str) -> str:
    """Why, or nothing."""
    try:
        check_storage(address)
    except ValueError as error:
        return str(error)
    return ""


SIGNS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@given(SIGNS, SIGNS, st.sampled_from(["postgresql://", "postgres://", "postgresql+psycopg://", "mysql://"]))
def test_no_password_is_shown(before: str, after: str, scheme: str) -> None:
    """Whatever is around its middle, in addresses that are refused too."""
    address = f"{scheme}me:{before}5ecret{after}@host.example/studies"
    shown = without_password(address)
    assert shown == f"{scheme}me:***@host.example/studies"
    assert "5ecret" not in refused(address)


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///studies.db",
        "sqlite:////tmp/a b@c:d/studies.db",
        "postgresql://host/studies",
        "postgres://me@db.example:5433/studies",
        "postgresql+psycopg://me@[::1]:5432/studies?sslmode=require",
        "postgresql://127.0.0.1",
    ],
)
def test_an_address_without_a_password_is_shown_as_it_is(address: str) -> None:
    check_storage(address)
    assert without_password(address) == address


def test_an_encoded_password_is_taken_but_not_shown() -> None:
    address = "postgresql://me:5e%2Fcr%40et@127.0.0.1:5432/studies"
    assert TuneSettings.of(storage=address).storage == address
    assert without_password(address) == "postgresql://me:***@127.0.0.1:5432/studies"


def test_every_measure_that_can_be_an_objective_is_measured() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 32, 32, 3), np.uint8)
    masks = np.zeros((8, 32, 32), bool)
    masks[:, 8:24, 8:24] = True
    labels = np.arange(8, dtype=np.int64)
    torch.manual_seed(0)
    model = FastNet(classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).eval()
    predictions = Predictions(random.normal(size=(8, 10)).astype(np.float32), labels)
    split = Split(images, labels, masks)
    looks = measuring.measure(model, ["layer3"], split, predictions, "gradcam", "cpu")
    assert {f"cam/layer3/{measure}" for measure in MEASURES} <= measuring.summary(looks.table).keys()


@pytest.mark.parametrize("size", ["coverage", "spread", "entropy"])
def test_a_size_is_no_objective(size: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TuneSettings.of(objective=f"cam/layer3/{size}")
    assert f"'cam/layer3/{size}' is no objective: {size} is a size and no quality" in str(refused.value)


def test_directions_and_goals() -> None:
    assert TuneSettings.of().goals == ("val/accuracy",)
    settings = TuneSettings.of(objectives="val/loss, cam/layer3/focus,cam/stage.2/border")
    assert settings.goals == ("val/loss", "cam/layer3/focus", "cam/stage.2/border")
    assert settings.directions == ("minimize", "maximize", "minimize")


def test_each_baseline_is_tried_once_and_the_own_setting_is_the_first() -> None:
    plain = TuneSettings.of().baseline_options()
    assert list(plain) == [OWN, PUBLISHED]
    assert plain[OWN] == {"cutout": False}
    assert plain[PUBLISHED]["cutout_size"] == "16"
    assert list(TuneSettings.of(cutout="true").baseline_options()) == [OWN, NO_CUTOUT]
    several = TuneSettings.of(
        cutout="true", cutout_size="8-20", baselines="small: cutout_size=8; same: cutout=true; off: cutout=false"
    ).baseline_options()
    assert list(several) == [OWN, NO_CUTOUT, PUBLISHED, "small"]
    assert several["small"] == several[OWN] | {"cutout_size": "8"}
    assert set(several[OWN]) == set(HOLE_OPTIONS)


def test_the_published_hole_is_half_the_side() -> None:
    assert TuneSettings.of(image_size=64).baseline_options()[PUBLISHED]["cutout_size"] == "32"
    assert TuneSettings.of(image_size=17).baseline_options()[PUBLISHED]["cutout_size"] == "8"


def test_the_trials_share_everything_but_holes_and_seed() -> None:
    typed = {"epochs": "3", "cutout": "true", "cutout_size": "12", "seed": "7", "trials": "20", "study": "a", "lr": "1"}
    assert common_options(TuneSettings.of(**typed)) == {"epochs": "3", "lr": "1"}


def test_a_study_is_defined_by_what_decides_and_not_by_the_machine() -> None:
    def differs(**typed: object) -> bool:
        return TuneSettings.of(**typed).definition() != TuneSettings.of().definition()

    for same in ({"threads": 1}, {"workers": 2}, {"trials": 20}, {"hours": 1}, {"storage": "sqlite:///b.db"}):
        assert not differs(**same)
    for other in ({"epochs": 2}, {"seed": 1}, {"space_size": "0.2-0.3"}, {"cutout": True}, {"sampler": "gp"}):
        assert differs(**other)


def test_a_grid_with_fewer_points_than_the_search_is_refused() -> None:
    small = {"space_holes": "0-1", "space_size": "0.5-0.5", "space_p": "1-1", "space_fill": "mean"}
    settings = TuneSettings.of(sampler="grid", space_placement="inside", trials=15, **small)
    # Two points and two baselines, for a search of nine.
    with pytest.raises(
        SettingsError, match="search would have 9 trainings, but sampler=grid has at most 4 different ones"
    ):
        refuse_short_grid(settings)
    refuse_short_grid(TuneSettings.of(sampler="random", space_placement="inside", trials=15, **small))
    refuse_short_grid(TuneSettings.of(sampler="grid", trials=15))


@pytest.mark.parametrize("helper", ["worker", "ray"])
def test_the_help_of_a_helper_shows_no_password(
    helper: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "postgresql://me:5ecret%40x@host/db%2F1")
    with pytest.raises(SystemExit, match="0"):
        tune.main([helper, "--help"])
    said = capsys.readouterr().out
    assert "5ecret" not in said
    assert "postgresql://me:***@host/db%2F1" in "".join(said.split())
