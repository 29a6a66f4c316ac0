"""An installed copy has every module and every file that the code reads."""

import subprocess
import sys
from pathlib import Path

from benchmarks.imports import PACKAGES, ROOT
from tests.conftest import copy_project

# What is no Python module but is read by the code, or copied by the Makefile.
FILES = {"page.html.j2", "page.css", "page.js", "conda.sh"}


def files(folder: Path) -> set[str]:
    """Every file of the packages below `folder`."""
    found = (path for package in PACKAGES for path in (folder / package).rglob("*"))
    return {
        str(path.relative_to(folder)) for path in found if path.is_file() and path.suffix not in (".pyc", ".md", ".new")
    }


def test_a_built_copy_has_every_file(tmp_path: Path) -> None:
    copy_project(tmp_path)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    build = [
        sys.executable,
        "-c",
        "import setuptools; setuptools.setup()",
        "--quiet",
        "build_py",
        "--build-lib",
        "built",
    ]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert files(tmp_path / "built") == files(ROOT)
    assert {Path(name).name for name in files(ROOT) if not name.endswith(".py")} == FILES
