"""Imports run one way, and one module alone knows each of the heavy outside worlds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.stem: path for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"}
# Modules of the suite that import nothing of it.
LEAVES = {
    "processes",
    "race",
    "recipes",
    "records",
    "schedule",
    "models",
    "progress",
    "scenes",
    "statistics",
    "views",
    "store",
}


def imported(path: Path) -> set[str]:
    """Every module that the file imports anywhere, dotted; `from x import y` counts as x and x.y."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def suite_imports(name: str) -> set[str]:
    return {module.split(".")[1] for module in imported(MODULES[name]) if module.startswith("experiments.")} & set(
        MODULES
    )


@pytest.mark.parametrize("path", sorted((ROOT / "cam_core").glob("*.py")), ids=lambda path: path.stem)
def test_cam_core_knows_nothing_of_the_suite_or_of_trackers(path: Path) -> None:
    roots = {module.split(".")[0] for module in imported(path)}
    assert not roots & {"experiments", "mlflow", "optuna", "albumentations", "torchvision", "sklearn"}


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_nothing_of_the_suite(name: str) -> None:
    assert suite_imports(name) == set()


def test_imports_have_no_circle() -> None:
    remaining = {name: suite_imports(name) for name in MODULES}
    # report names types of comparison for the type checker alone.
    remaining["report"].discard("comparison")
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & set(remaining)}
        assert free, f"a circle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


@pytest.mark.parametrize(
    ("package", "knows"),
    [
        ("mlflow", {"tracking"}),
        ("albumentations", {"augment"}),
        ("torchvision", {"data"}),
        ("ray", {"ray_workers"}),
        ("optuna", {"ledger", "agenda", "study_worker", "study_results", "study_charts"}),
        ("matplotlib", {"gallery", "charts", "study_charts"}),
    ],
)
def test_one_module_alone_knows(package: str, knows: set[str]) -> None:
    assert {name for name, path in MODULES.items() if package in {m.split(".")[0] for m in imported(path)}} == knows


def test_the_models_travel_alone() -> None:
    roots = {module.split(".")[0] for module in imported(MODULES["models"])}
    assert roots == {"collections", "torch", "jaxtyping"}


def test_the_design_has_one_line_for_every_file() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in [*MODULES.values(), *(ROOT / "cam_core").glob("[a-z]*.py")]:
        assert f"  {path.name} " in readme, f"README's layout does not say what {path.name} is for"
