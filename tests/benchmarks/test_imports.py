"""The figures of the house are counted right."""

from pathlib import Path

import pytest

from benchmarks.imports import arrows, bodies, circle, classes, draw, floors, modules, room, room_arrows

BASE = '''def three(x):
    """Text."""
    y = x

    return y


class Two:
    a = 1
'''


@pytest.fixture
def house(tmp_path: Path) -> dict[str, Path]:
    """Two rooms and an entry point; `low` is imported in three spellings."""
    for name, text in {
        "experiments/__init__.py": "",
        "experiments/low/__init__.py": "",
        "experiments/low/base.py": BASE,
        "experiments/high/__init__.py": "",
        "experiments/high/a.py": "from ..low import base\nfrom .b import c\n",
        "experiments/high/b.py": "def c():\n    from ..low.base import three\n    return three\n",
        "experiments/run.py": "import experiments.high.a\nfrom .low.base import three\n",
        "cam_core/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return modules(tmp_path)


def test_imports_in_every_spelling_and_place_are_arrows(house: dict[str, Path]) -> None:
    found = arrows(house)
    assert found["experiments.high.a"] == {"experiments.low", "experiments.low.base", "experiments.high.b"}
    assert "experiments.low.base" in found["experiments.high.b"]  # inside a function
    assert "experiments.high.a" in found["experiments.run"]
    assert room_arrows(found) == {"low": set(), "high": {"low"}, "run": {"low", "high"}, "cam_core": set()}
    assert room("experiments.high.a") == "high"


def test_floors_and_circles(house: dict[str, Path], tmp_path: Path) -> None:
    rooms = room_arrows(arrows(house))
    assert floors(rooms) == {"low": 0, "cam_core": 0, "high": 1, "run": 2}
    assert circle(rooms) == set()
    assert circle({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()}) == {"a", "b", "c"}
    with pytest.raises(ValueError, match="a circle among the rooms a, b"):
        floors({"a": {"b"}, "b": {"a"}})
    draw(rooms, tmp_path / "rooms.png")
    assert (tmp_path / "rooms.png").read_bytes().startswith(b"\x89PNG")


def test_a_body_counts_from_the_first_statement_after_the_docstring(house: dict[str, Path]) -> None:
    assert dict(bodies(house["experiments.low.base"])) == {"base.three": 3}
    assert dict(classes(house["experiments.low.base"])) == {"base.Two": 2}
