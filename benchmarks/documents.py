"""Writes the parts of the documents that come from the code: docs/options.md, and the tree in docs/layout.md.

python -m benchmarks.documents
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from benchmarks.imports import ROOT, modules
from experiments.settings.base import AUTO, Settings
from experiments.settings.command_line import groups, meaning
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.study.settings import TuneSettings

OPTIONS, LAYOUT = ROOT / "docs" / "options.md", ROOT / "docs" / "layout.md"
BEGIN, END = "<!-- tree: written by `make docs` -->", "<!-- end of the tree -->"
ENTRY_POINTS: dict[str, type[Settings]] = {
    "A training": TrainSettings,
    "A comparison": CompareSettings,
    "A study": TuneSettings,
}
HEAD = """# Every option

`python -m experiments.train --help` prints the same. With `mlflow run` write `-P name=value`, with `python -m` write
`--name value`. `auto` means: the recipe or the machine decides. A comparison and a study also take every option of a
training.
"""


def options_page() -> str:
    """docs/options.md."""
    parts = [HEAD]
    for title, settings in ENTRY_POINTS.items():
        command = settings.command
        parts.append(f"## {title}\n\n`{command}`\n")
        for group, names in groups(settings).items():
            own = [name for name in names if settings is TrainSettings or name not in TrainSettings.model_fields]
            if own:
                parts.append(_table(settings, group, own))
    return "\n".join(parts)


def _table(settings: type[Settings], group: str, names: list[str]) -> str:
    rows = [f"| `{name}` | {_cell(meaning(settings, name))} | {_default(settings, name)} |" for name in names]
    return "\n".join(
        [f"### {group[0].upper()}{group[1:]}\n", "| option | meaning | default |", "|---|---|---|", *rows, ""]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(settings: type[Settings], name: str) -> str:
    text = settings.default_text(name)
    if text == AUTO and name in TrainSettings.model_fields:
        of_fast = TrainSettings.of().as_params()[name]
        return f"`{text}`" if of_fast == AUTO else f"by recipe; `{of_fast}` in fast"
    return f"`{text}`"


def tree() -> str:
    """One line for every file: its name and the first sentence of its docstring."""
    return "\n".join(["```", *_tree_lines(), "```"])


def _tree_lines() -> Iterator[str]:
    folder = None
    for path in sorted(modules().values(), key=lambda path: (path.parts[:-1], path.name != "__init__.py", path.name)):
        if path.parent != folder:
            folder = path.parent
            yield f"{folder.relative_to(ROOT)}/".ljust(27) + _first_line(folder / "__init__.py")
        if path.name != "__init__.py":
            yield f"  {path.name}".ljust(27) + _first_line(path)


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def layout_page() -> str:
    """docs/layout.md with the tree of the present code."""
    before, _, rest = LAYOUT.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{tree()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Writes both pages."""
    OPTIONS.write_text(options_page(), encoding="utf-8")
    LAYOUT.write_text(layout_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
