"""`MLproject`, the settings and the locked versions are in step."""

import re
from pathlib import Path

import pytest
import yaml

from experiments.settings.base import Settings
from experiments.settings.command_line import read
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.study.settings import TuneSettings

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
# What each entry point runs, and the options whose default differs from the settings'.
ENTRY_POINTS: dict[str, tuple[type[Settings], dict[str, str]]] = {
    "main": (TrainSettings, {}),
    "baseline": (TrainSettings, {"cutout": "false"}),
    "cutout": (TrainSettings, {"cutout": "true"}),
    **{
        name: (TrainSettings, {"recipe": name} if name != "fast" else {})
        for name in ("fast", "fast_94", "resnet18_steplr", "resnet18_onecycle", "resnet18_cutout", "resnet18_no_cutout")
    },
    "compare": (CompareSettings, {}),
    "tune": (TuneSettings, {}),
}


def spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_entry_point_has_settings_and_the_other_way_round() -> None:
    assert set(PROJECT["entry_points"]) == set(ENTRY_POINTS)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_declared_parameters_are_options_with_the_defaults_of_the_settings(name: str) -> None:
    settings, differing = ENTRY_POINTS[name]
    declared = {key: spelled(value["default"]) for key, value in PROJECT["entry_points"][name]["parameters"].items()}
    assert (
        {"recipe", "seed", "dataset", "epochs", "cutout", *differing} <= declared.keys() <= settings.model_fields.keys()
    )
    assert declared == {key: settings.default_text(key) for key in declared} | differing


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_declared_parameter_is_passed_under_its_own_name(name: str) -> None:
    settings, _ = ENTRY_POINTS[name]
    entry = PROJECT["entry_points"][name]
    options = [f"--{parameter} {{{parameter}}}" for parameter in entry["parameters"]]
    module, *passed = re.split(r" (?=--)", entry["command"])
    assert (module, sorted(passed)) == (settings.command, sorted(options))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_with_its_defaults_reads_as_the_default_settings(name: str) -> None:
    settings, differing = ENTRY_POINTS[name]
    entry = PROJECT["entry_points"][name]
    defaults = {key: str(value["default"]) for key, value in entry["parameters"].items()}  # as MLflow spells them
    words = entry["command"].format(**defaults).split()
    assert read(settings, words[3:]) == settings.of(**differing)


def test_conda_installs_exactly_the_locked_versions() -> None:
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip == (ROOT / "requirements.txt").read_text().splitlines()
    assert PROJECT["conda_env"] == "conda.yaml"


def test_every_locked_version_is_exact_and_the_same_for_development() -> None:
    runtime, development = (
        dict(re.match(r"([\w.-]+)==([^ ]+)", line).groups() for line in (ROOT / name).read_text().splitlines())  # type: ignore[union-attr]
        for name in ("requirements.txt", "requirements-dev.txt")
    )
    assert runtime.items() <= development.items()
    assert "opencv-python" not in development
