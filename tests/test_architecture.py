"""Imports run one way, one room alone knows each of the heavy outside worlds, and functions stay short."""

import statistics

import pytest

from benchmarks.imports import arrows, bodies, circle, classes, imported, lines, modules, room, room_arrows

MODULES = modules()
SUITE = {name: path for name, path in MODULES.items() if name.startswith("experiments.")}
# Lowest first. A room imports from itself and from rooms above it in this list.
ORDER = (
    *("errors", "system", "settings", "data", "models", "augmentation", "training", "explaining", "evidence"),
    *("pictures", "runs", "comparison", "study"),
)
ENTRY_POINTS = {"entry", "train", "compare", "tune", "ray_workers"}
# Tables of options, which have no logic that could be split.
DECLARATIVE = {"train_options.TrainingOptions"}


def outside(name: str) -> set[str]:
    """The packages that a module imports from anywhere."""
    return {module.split(".")[0] for module in imported(name, MODULES[name])}


def test_there_is_something_to_check() -> None:
    assert {room(name) for name in SUITE} == {*ORDER, *ENTRY_POINTS, "tracking"}
    assert "experiments.settings.base" in arrows(MODULES)["experiments.settings.train"]  # relative imports are read


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "cam_core"])
def test_cam_core_knows_nothing_of_the_suite_or_of_trackers(name: str) -> None:
    assert not outside(name) & {"experiments", "mlflow", "optuna", "albumentations", "torchvision", "sklearn"}


@pytest.mark.parametrize("name", ORDER)
def test_a_room_imports_only_from_rooms_below(name: str) -> None:
    allowed = {*ORDER[: ORDER.index(name)], "cam_core"}
    if name in ("runs", "comparison", "study"):
        allowed.add("tracking")
    assert room_arrows(arrows(MODULES))[name] <= allowed


def test_tracking_knows_errors_and_the_machine_alone() -> None:
    assert room_arrows(arrows(MODULES))["tracking"] <= {"errors", "system", "cam_core"}


def test_no_room_imports_an_entry_point() -> None:
    needs = room_arrows(arrows(MODULES))
    assert not {name: needs[name] & ENTRY_POINTS for name in (*ORDER, "tracking") if needs[name] & ENTRY_POINTS}


def test_imports_have_no_circle() -> None:
    assert circle(arrows(MODULES)) == set()
    assert circle(room_arrows(arrows(MODULES))) == set()


@pytest.mark.parametrize("name", SUITE)
def test_imports_inside_the_suite_are_relative(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert "from experiments" not in text
    assert "import experiments" not in text


@pytest.mark.parametrize(
    ("package", "knows"),
    [
        ("mlflow", {"tracking"}),
        ("albumentations", {"augmentation"}),
        ("torchvision", {"data", "augmentation", "models"}),
        ("timm", {"models"}),
        ("ray", {"study"}),
        ("optuna", {"study"}),
        ("matplotlib", {"pictures", "study"}),
        ("sqlalchemy", {"study"}),
    ],
)
def test_one_room_alone_knows(package: str, knows: set[str]) -> None:
    assert {room(name) for name in SUITE if package in outside(name)} == knows


def test_one_module_alone_knows_the_networks_of_libraries() -> None:
    needing = {name for name in SUITE if room(name) == "models" and outside(name) & {"torchvision", "timm"}}
    assert needing == {"experiments.models.foreign"}


def test_the_networks_travel_alone() -> None:
    """A logged model brings the code; where it is loaded there may be nothing but torch."""
    needs = arrows(MODULES)
    networks, waiting = set(), {"experiments.models"}
    while waiting:
        networks.add(name := waiting.pop())
        waiting |= needs[name] - networks
    assert {room(name) for name in networks} == {"models"}
    assert networks > {"experiments.models.fastnet", "experiments.models.layers", "experiments.models.resnet18"}
    needed = {package for name in networks for package in outside(name)}
    assert needed - {"experiments"} == {"collections", "jaxtyping", "math", "torch"}


def test_functions_fit_a_screen() -> None:
    lengths = {name: length for path in MODULES.values() for name, length in bodies(path)}
    numbers = sorted(lengths.values())
    assert statistics.median(numbers) <= 6
    assert numbers[int(0.9 * len(numbers))] < 20
    assert {name: length for name, length in lengths.items() if length > 50} == {}


def test_no_class_is_longer_than_200_lines_and_no_file_longer_than_400() -> None:
    lengths = {name: length for path in MODULES.values() for name, length in classes(path)}
    assert {name for name, length in lengths.items() if length > 200} <= DECLARATIVE
    assert {name: lines(path) for name, path in MODULES.items() if lines(path) > 400} == {}
