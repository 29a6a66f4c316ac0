"""Functions of one's own in a file or module, named by an option, and the sources that decide what they return."""

import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from modulefinder import ModuleFinder
from pathlib import Path

from ..errors import CannotStart, did_you_mean
from .files import user_path

_FORMS = "FILE.py:function, or module:function"
_SUITE = ("experiments", "cam_core")  # their code is part of every fingerprint


@dataclass(frozen=True)
class Own:
    """The function; the text of its file and of what this imports from beside it, by path; and where these lie."""

    function: Callable[..., object]
    sources: Mapping[str, str]
    files: Collection[str]


def own(option: str, text: str, error_type: type[CannotStart]) -> Own:
    """The function that `FILE.py:function` or `module:function` names as the value of the option.

    Raises:
        CannotStart: of this type; there is no such file, module or function, or it cannot be imported.
    """
    where, _, name = text.rpartition(":")
    if (place := _place(where)) is None:
        what = f"file {where}; give FILE.py:function" if where.endswith(".py") else f"module {where!r}; give {_FORMS}"
        raise error_type(f"{option}={text}: there is no {what}")
    root, module = place
    try:
        files = files_of(module, root)
        sources = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files.values()}
    except (OSError, SyntaxError, ValueError) as error:
        raise error_type(f"{option}={text}: {where} is no Python: {told(error, ())}") from error
    for other, path in files.items():
        loaded = getattr(sys.modules.get(other), "__file__", None) if other in sys.modules else str(path)
        if loaded != str(path):  # which Python would take instead
            what = f"another module is named {other!r} ({loaded or 'a part of Python'})"
            raise error_type(f"{option}={text}: {path} cannot be imported: {what}; rename the file")
    found = set(map(str, files.values()))
    sys.path.insert(0, str(root))
    try:
        function = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        raise error_type(f"{option}={text}: {where} cannot be imported: {told(error, found)}") from error
    finally:
        sys.path.remove(str(root))
        sys.path += {str(root)} - {*sys.path}  # last, for what is imported while a network runs
    if not callable(function):
        hint = did_you_mean(name, list(vars(sys.modules[module])))
        raise error_type(f"{option}={text}: {where} has no function {name!r}{hint}")
    return Own(function, dict(sorted(sources.items())), found)


def _place(where: str) -> tuple[Path, str] | None:
    """The folder from which the module is imported, and its name; None if there is no such file or module."""
    if where.endswith(".py"):
        file = user_path(where).resolve()
        return (file.parent, file.stem) if file.is_file() else None
    spec = None
    with suppress(ImportError, ValueError):  # a package above it is missing, or the name is none
        spec = find_spec(where)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    file = Path(spec.origin)
    return file.parents[where.count(".") + (file.name == "__init__.py")], where


def files_of(module: str, root: Path) -> dict[str, Path]:
    """The files of a module and of all that it and they import from `root`, by the names of their modules.

    Of an installed package only its own files.

    Raises:
        SyntaxError, OSError, ValueError: a file is no Python.
    """
    finder = ModuleFinder([str(root)], excludes=_SUITE)
    finder.import_hook(module)
    installed = root.name in ("site-packages", "dist-packages")
    found = {name: Path(str(each.__file__)) for name, each in finder.modules.items() if each.__file__}  # type: ignore[attr-defined]
    first = module.partition(".")[0]
    return {name: path for name, path in found.items() if not installed or name.partition(".")[0] == first}


def told(error: BaseException, files: Collection[str]) -> str:
    """The error in one line, with the last line of these files that led to it."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = [place for place in places if place[0] in files]
    text = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, SyntaxError) and error.filename:
        text, places = error.msg, [(error.filename, error.lineno)]
    where = f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}: {text}{where}"
