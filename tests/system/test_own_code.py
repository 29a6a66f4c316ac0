"""Code of one's own: imported as it is now, with all that it imports from beside it; mistakes told in one line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.errors import CannotStart
from experiments.system.own_code import is_own, own_code, told


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Modules and places that a test adds are forgotten."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        del sys.modules[name]


def written(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_all_that_is_imported_from_beside_it_belongs_to_it(tmp_path: Path) -> None:
    for path, text in {
        "own_main.py": "import os, own_pack.inner.deep as deep\nnumber = 1\n",
        "own_pack/__init__.py": "from . import one\n",
        "own_pack/one.py": "",
        "own_pack/inner/__init__.py": "",
        "own_pack/inner/deep.py": "def later():\n    from ..two import thing\n    from own_no_init import three\n",
        "own_pack/two.py": "import own_lonely\n",
        "own_no_init/three.py": "from .four import x\n",
        "own_no_init/four.py": "",
        "own_lonely.py": "import own_main\nimport nowhere.at_all\nfrom .... import above\n",
        "unused.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    everything = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}
    assert set(own_code("model", f"{tmp_path}/own_main.py:number").sources) == everything - {"unused.py"}


def test_of_an_installed_package_only_its_own_files_belong_to_it() -> None:
    code = own_code("model", "torchvision.models.alexnet:alexnet")
    assert {path.partition("/")[0] for path in code.sources} == {"torchvision"}
    assert "torchvision/models/alexnet.py" in code.sources


def test_errors_of_own_code_are_known(tmp_path: Path) -> None:
    written(tmp_path, own_one="def fail():\n    raise ValueError('mine')\n")
    fail = own_code("model", f"{tmp_path}/own_one.py:fail").found
    with pytest.raises(ValueError, match="mine") as mine:
        fail()
    with pytest.raises(ZeroDivisionError) as other:
        1 / 0  # noqa: B018
    assert [is_own(mine.value), is_own(other.value)] == [True, False]


def test_what_a_file_is_now_is_imported(tmp_path: Path) -> None:
    def found() -> object:
        code = own_code("model", f"{tmp_path}/own_one.py:number")
        assert code.sources == {f"own_{name}.py": (tmp_path / f"own_{name}.py").read_text() for name in ("one", "two")}
        return code.found

    written(tmp_path, own_one="from own_two import number\n", own_two="number = [1]\n")
    first = found()
    assert first == [1]
    assert found() is first  # not executed again
    written(tmp_path, own_two="number = [2]\n")
    assert found() == [2]
    assert {path.name for path in tmp_path.iterdir()} == {"own_one.py", "own_two.py"}


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for number in "121":
        folder = written(tmp_path / number, own_one="from own_two import number\n", own_two=f"number = {number}\n")
        assert own_code("model", f"{folder}/own_one.py:number").found == int(number)


@pytest.mark.parametrize("folder", ["with spaces", "ünï", "a.b"])
def test_any_folder_will_do(folder: str, tmp_path: Path) -> None:
    place = written(tmp_path / folder, own_one="from own_two import number\n", own_two="number = 3\n")
    assert own_code("model", f"{place}/own_one.py:number").found == 3


def test_a_request_to_end_is_no_error_of_the_code() -> None:
    class Asked(SystemExit):
        pass

    assert told(SystemExit(3)) == "SystemExit: 3"
    with pytest.raises(Asked):
        told(Asked(143))


MISTAKES = {
    "this is {not": r"is no Python: SyntaxError: .* \(own_one\.py, line 1\)",
    "import sys\n\nsys.exit('usage: ...')": r"cannot be imported: SystemExit: usage: \.\.\. \(own_one\.py, line 3\)",
    "import own_two": r"cannot be imported: ZeroDivisionError: division by zero \(own_two\.py, line 2\)",
    "from . import own_two": r"attempted relative import .* such as package\.own_one:bild",
    "build = 1": r"own_one\.py has no 'bild'; did you mean 'build'\?",
    "other = 1": r"own_one\.py has no 'bild'; it defines other",
    "import warnings\nwarnings.warn('Argument(s) x are not valid')": r"UserWarning: Argument\(s\) x are not valid",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    written(tmp_path, own_one=text, own_two="# twice\n1 / 0\n")
    spec = f"{tmp_path}/own_one.py:bild"
    with pytest.raises(CannotStart, match=MISTAKES[text]) as error:
        own_code("model", spec)
    assert str(error.value).startswith(f"model={spec}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json.py", "another module is named 'json' .*; rename the file"),
        ("a.b.py", r"a dot in its name; rename a\.b\.py"),
    ],
)
def test_a_name_that_python_cannot_import_is_refused(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x = 1\n")
    with pytest.raises(CannotStart, match=said):
        own_code("augmentation", f"{tmp_path / name}:x")
