"""Figures about the code: rooms, the imports between them, lengths of functions, number of lines.

python -m benchmarks.imports [--picture FILE.png]
"""

import argparse
import ast
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cam_core", "experiments")


def modules(root: Path = ROOT) -> dict[str, Path]:
    """All modules of the packages by dotted name; the `__init__` module of a package has the name of the package."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }


@cache
def imported(name: str, path: Path) -> frozenset[str]:
    """The dotted names of all modules that the file imports; `from x import y` counts as x and as x.y.

    Relative imports start at the package that contains the module, as in Python.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def arrows(found: dict[str, Path]) -> dict[str, set[str]]:
    """For each module, the other modules of the packages that it imports."""
    return {name: {*imported(name, path)} & found.keys() - {name} for name, path in found.items()}


def room(module: str) -> str:
    """The room of a module: `experiments.study.ledger` is in `study`, `experiments.train` is a room of its own."""
    package, *rest = module.split(".")
    return rest[0] if package == "experiments" and rest else package


def room_arrows(between: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each room, the other rooms that it imports from."""
    rooms: dict[str, set[str]] = {}
    for name, needs in between.items():
        rooms.setdefault(room(name), set()).update({room(need) for need in needs} - {room(name), "experiments"})
    rooms.pop("experiments", None)  # the package itself contains only a docstring
    return rooms


def circle(needs: dict[str, set[str]]) -> set[str]:
    """The nodes on a circle or above one: repeatedly removes all nodes that need no remaining node."""
    remaining = dict(needs)
    while free := [name for name, own in remaining.items() if not own & remaining.keys()]:
        for name in free:
            del remaining[name]
    return set(remaining)


def bodies(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function's body: from the first statement after the docstring to the last line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                yield f"{path.stem}.{node.name}", (node.end_lineno or 0) - body[0].lineno + 1


def classes(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each class."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield f"{path.stem}.{node.name}", (node.end_lineno or 0) - node.lineno + 1


def lines(path: Path) -> int:
    """The number of lines of the file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def figures(found: dict[str, Path]) -> Iterator[str]:
    """The figures, one per line."""
    between = arrows(found)
    rooms = room_arrows(between)
    yield f"{len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows between them"
    yield f"circle of rooms: {', '.join(sorted(circle(rooms))) or 'none'}"
    yield f"circle of modules: {', '.join(sorted(circle(between))) or 'none'}"
    lengths = sorted((length, name) for path in found.values() for name, length in bodies(path))
    numbers = [length for length, _ in lengths]
    yield (
        f"{len(numbers)} functions, lines of body: median {statistics.median(numbers):g}, nine in ten up to "
        f"{numbers[int(0.9 * len(numbers))]}, longest {', '.join(f'{name} {n}' for n, name in lengths[:-6:-1])}"
    )
    sizes = sorted(((length, name) for path in found.values() for name, length in classes(path)), reverse=True)
    yield f"longest classes: {', '.join(f'{name} {n}' for n, name in sizes[:5])}"
    total = Counter(dict.fromkeys(PACKAGES, 0))
    for name, path in found.items():
        total[name.split(".")[0]] += lines(path)
    longest = sorted(((lines(path), name) for name, path in found.items()), reverse=True)
    yield f"{sum(total.values()):,} lines: {', '.join(f'{package} {n:,}' for package, n in total.items())}"
    yield f"{len(found)} files, longest {', '.join(f'{name} {n}' for n, name in longest[:5])}"


def floors(rooms: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: above every room that it imports from.

    Raises:
        ValueError: the rooms import each other in a circle.
    """
    if found := circle(rooms):
        raise ValueError(f"the rooms {', '.join(sorted(found))} import each other in a circle")
    level: dict[str, int] = {}
    while len(level) < len(rooms):
        for name in rooms.keys() - level.keys():
            if rooms[name] <= level.keys():
                level[name] = 1 + max((level[need] for need in rooms[name]), default=-1)
    return level


def draw(rooms: dict[str, set[str]], target: Path) -> None:
    """A picture of the rooms on their floors, an arrow from each room to those that it imports from."""
    from matplotlib.figure import Figure

    level = floors(rooms)
    by_floor: dict[int, list[str]] = {}
    for name in sorted(level):
        by_floor.setdefault(level[name], []).append(name)
    place = {
        name: ((i + 0.5) / len(names), float(floor))
        for floor, names in by_floor.items()
        for i, name in enumerate(names)
    }
    figure = Figure(figsize=(11, 0.9 * len(by_floor) + 1), layout="constrained")
    axes = figure.subplots()
    for name, needs in rooms.items():
        for need in needs:
            arrow = {"arrowstyle": "->", "color": "#0072B2", "alpha": 0.35, "shrinkA": 12, "shrinkB": 12}
            axes.annotate("", xy=place[need], xytext=place[name], arrowprops=arrow)
    for name, (x, y) in place.items():
        axes.text(x, y, name, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white", "ec": "#333333"})
    axes.set(xlim=(0, 1), ylim=(-0.6, len(by_floor) - 0.4), title=f"{len(rooms)} rooms, imports point downwards")
    axes.set_axis_off()
    figure.savefig(target, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures, and draws the picture if requested."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__, allow_abbrev=False)
    parser.add_argument("--picture", type=Path, help="draw rooms and arrows into this file")
    given = parser.parse_args(argv)
    found = modules()
    for line in figures(found):
        print(line)
    if given.picture:
        draw(room_arrows(arrows(found)), given.picture)


if __name__ == "__main__":
    main()
