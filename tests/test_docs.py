"""What the documents tell people to type works: every command is parsed, and one of each kind is run."""

import ast
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

import mlflow.utils.conda
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from experiments.settings.base import Settings
from experiments.settings.command_line import read
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.settings.trainings import plan
from experiments.study.settings import TuneSettings
from tests.conftest import copy_project, run_mlflow
from tests.toys.scenes import TINY, put_scenes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "cam_core" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
README = TEXTS["README.md"]
SETTINGS: dict[str, type[Settings]] = {"train": TrainSettings, "compare": CompareSettings, "tune": TuneSettings}

QUICK = TINY | {"train_images": "100", "cutout_size": "8", "model": "fastnet"}  # of every recipe
QUICKER = {"tune": {"trials": "3", "confirm": "false", "workers": "1"}, "compare": {"seeds": "1"}}


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """What a page shows as typed: lines of shell blocks, code in sentences, commands of containers."""
    shell = [line for block in blocks("sh", text) for line in block.splitlines()]
    jobs = [yaml.safe_load(block)["spec"]["template"]["spec"] for block in blocks("yaml", text)]
    containers = [shlex.join(container["command"]) for job in jobs for container in job["containers"]]
    return shell + re.findall(r"`([^`\n]+)`", prose(text)) + containers


def found(pattern: str, texts: dict[str, str] = TEXTS) -> list[str]:
    """The part of each command that the pattern's group takes, each once."""
    hits = (re.search(pattern, command) for text in texts.values() for command in commands(text))
    return sorted({hit[1].strip() for hit in hits if hit})


def options_of(command: str) -> tuple[str, dict[str, str]]:
    """The entry point of an `mlflow run` command and its -P options."""
    words = [word for word in shlex.split(command) if not word.startswith("--env-manager=")][3:]
    entry, options = "main", {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag == "-e":
            entry = value
        else:
            assert flag == "-P"
            name, _, text = value.partition("=")
            options[name] = text
    return entry, options


MLFLOW = r"(mlflow run \. .*)"
SUITE = r"-m experiments\.(.*)"
BENCHMARKS = r"-m benchmarks\.(.*)"


def test_code_in_a_sentence_ends_in_its_line() -> None:
    broken = [line for text in TEXTS.values() for line in prose(text).splitlines() if line.count("`") % 2]
    assert not broken  # or its command would be tested nowhere


def test_the_readme_shows_every_entry_point() -> None:
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert {options_of(command)[0] for command in found(MLFLOW, {"README.md": README})} == set(entries)
    for entry in entries:
        assert f"| `{entry}` |" in README


def test_the_readme_is_short_and_its_picture_fits_one_screen() -> None:
    assert len(README.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", README)
    with Image.open(ROOT / picture) as image:
        width, height = image.size
    assert height < width <= 1100
    assert height <= 650


@pytest.mark.parametrize("command", found(MLFLOW))
def test_the_options_of_every_command_are_accepted(command: str) -> None:
    entry, options = options_of(command)
    if entry == "compare":
        assert plan(CompareSettings.of(**options))
    elif entry == "tune":
        assert TuneSettings.of(**options).baseline_options()
    else:
        TrainSettings.of(**{"cutout": str(entry == "cutout")} | options)


class Parsed(Exception):
    """Raised in the place of the work that a command line asks for."""


SERVED = ("prepare_store", "relocate", "serve_ui", "tidy")
"""The work of `python -m experiments.tracking`."""


def begins(*_: object, **__: object) -> NoReturn:
    """Stands for the work of a command: its words are accepted when this is called."""
    raise Parsed


@pytest.mark.parametrize("command", found(SUITE))
def test_every_command_line_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *words = shlex.split(command, comments=True)
    if words == ["--help"]:
        with pytest.raises(SystemExit, match=r"^0$"):
            read(SETTINGS[module], words)
    elif module in SETTINGS and words[:1] not in (["worker"], ["ray"]):
        read(SETTINGS[module], words)
    else:
        program = importlib.import_module(f"experiments.{module}{'.__main__' if module == 'tracking' else ''}")
        for work in ("experiments.entry.at_work", *(f"experiments.tracking.__main__.{name}" for name in SERVED)):
            monkeypatch.setattr(work, begins)
        with pytest.raises(Parsed):
            program.main(words)


@pytest.mark.parametrize("command", found(BENCHMARKS))
def test_every_benchmark_and_its_options_exist(command: str) -> None:
    module, *words = shlex.split(command)
    place = ROOT / "benchmarks" / module
    source = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source or option[2:] in TrainSettings.model_fields


@pytest.mark.parametrize("target", found(r"^make ([a-z-]+)"))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(found(r"pip install '\.\[(\w+)\]'")) <= set(extras)


def test_the_option_tables_tell_the_true_defaults() -> None:
    row = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]* \| ([^|]*) \|$", re.MULTILINE)
    rows = [found_row for text in TEXTS.values() for found_row in row.findall(text)]
    assert len(rows) > 20
    for names, defaults in rows:
        for name, default in zip(re.findall(r"`(\w+)`", names), re.findall(r"`([\w,:/.-]+)`", defaults), strict=False):
            kinds = [kind for kind in SETTINGS.values() if name in kind.model_fields]
            assert default in {kind.default_text(name) for kind in kinds} | {TrainSettings.of().as_params().get(name)}


# Links, messages and examples


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=list(TEXTS))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert target.is_relative_to(ROOT), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_every_page_is_listed_in_the_readme() -> None:
    listed = set(re.findall(r"\]\(docs/([\w]+\.md)\)", README))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed


def messages() -> str:
    """Every text in the code of the suite, one a line; `...` stands for what is put in."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "experiments").rglob("*.py")]
    return "\n".join(
        "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # type: ignore[misc]
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )


def test_the_headings_of_troubleshooting_are_messages() -> None:
    modules = ("No module named experiments", "No module named mlflow")
    of_others = (*modules, "mlflow: command not found", "duplicate column name: step")
    known = messages() + Path(mlflow.utils.conda.__file__).read_text()
    shown = re.findall(
        r"`([^`]+)`", "\n".join(re.findall(r"^## (.*)$", TEXTS["docs/troubleshooting.md"], re.MULTILINE))
    )
    assert len(shown) > 8
    assert [text for text in shown if text not in of_others and text.strip(". ") not in known] == []


# One command of each kind, from a fresh copy of the project


@pytest.fixture
def clone(store: Path) -> Path:
    """The project as a fresh clone has it, with a ready store and few scenes."""
    copy_project(store)
    put_scenes(store)
    return store


# The first command of all is run word for word in test_launch.py.
RUN = (
    "mlflow run . -e resnet18_steplr",
    "mlflow run . -e compare -P seeds=3",
    "mlflow run . -e tune -P trials=40",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_one_command_of_each_kind_runs_from_a_fresh_clone(command: str, clone: Path) -> None:
    assert command in found(MLFLOW)
    entry, options = options_of(command)
    options |= QUICK | QUICKER.get(entry, {})
    given = [f"-P{name}={value}" for name, value in options.items()]
    # The copy has no environment of its own, so MLflow is told to take the one of the tests.
    typed = [str(Path(sys.executable).with_name("mlflow")), "run", ".", "-e", entry, "--env-manager=local", *given]
    done = run_mlflow(typed, clone)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = MlflowClient(f"sqlite:///{clone}/mlflow.db").search_runs(["0"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["camparison.status"] for run in runs} == {"completed"}
    kinds = [run.data.tags["camparison.kind"] for run in runs]
    if entry == "compare":
        expected = len(plan(CompareSettings.of(**options)))
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
    typed = [str(Path(sys.executable).with_name("mlflow")), "run", ".", "--env-manager=local", "-P", "cuttout=true"]
    done = run_mlflow(typed, clone)
    assert done.returncode != 0
    assert "unknown option 'cuttout'; did you mean 'cutout'?" in done.stderr
    assert [run.info.status for run in MlflowClient(f"sqlite:///{clone}/mlflow.db").search_runs(["0"])] == ["FAILED"]
