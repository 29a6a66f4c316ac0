"""`make` changes an environment only where a target needs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, clean_environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose environment, as its mark says, was made in another folder."""
    for name in ("Makefile", "requirements.txt", "experiments/system/conda.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    marked(tmp_path, "/another/folder")
    return tmp_path.resolve()


def marked(project: Path, folder: str) -> None:
    """Writes the mark of a finished environment; what it was made from is a day older."""
    mark = project / ".venv" / "ready"
    mark.write_text(f"{folder}\n")
    day_before = mark.stat().st_mtime - 86400
    os.utime(project / "requirements.txt", (day_before, day_before))


def make(project: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *words], cwd=project, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def state(project: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in project.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("words", [["help"], [], ["-n", "setup"], ["-n", "clean"]])
def test_help_in_a_moved_folder_changes_nothing(words: list[str], project: Path) -> None:
    before = state(project)
    assert make(project, *words)
    assert state(project) == before


def test_setup_in_a_moved_folder_builds_the_environment_anew(project: Path) -> None:
    assert "-m venv --clear .venv" in make(project, "-n", "setup")
    assert "--requirement requirements-dev.txt" in make(project, "-n", "check", "-o", "requirements-dev.txt")


def test_setup_adds_only_the_stand_in_for_conda_to_a_ready_environment(project: Path) -> None:
    marked(project, str(project))
    before = state(project)
    make(project, "setup")
    conda = project / ".venv" / "bin" / "conda"
    assert os.access(conda, os.X_OK)
    assert conda.read_bytes() == (REPOSITORY / "experiments" / "system" / "conda.sh").read_bytes()
    assert {path: is_ for path, is_ in state(project).items() if path != conda} == before
    assert "install" not in make(project, "-n", "setup")


def test_help_lists_every_target(project: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (project / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^  make (\S+) +\S", make(project, "help"), re.MULTILINE)
    assert sorted(listed) == sorted(set(phony.split()) - {"moved"})


@pytest.mark.slow
def test_the_tests_report_how_much_of_their_budget_they_used() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", "--budget", "600"]
    done = subprocess.run(
        [*command, "tests/cam_core/test_errors.py"],
        cwd=REPOSITORY,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^tests took \d+ s of the 600 s budget \(\d+%\)$", done.stdout, re.MULTILINE)
