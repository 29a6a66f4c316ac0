"""Code of one's own: what `FILE.py:NAME` or `module:NAME` names, the sources that decide it, and the errors in it."""

import importlib
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from ..errors import CannotStart, did_you_mean
from .files import user_path

_SUITE = ("experiments", "cam_core")  # their code is part of every fingerprint
# albumentations only warns about these, and then does something else.
_MISTAKES = (r"Argument\(s\)", r"Transform .* has no 'p' parameter")
_LONGEST = 300  # characters of an error
_IMPORTED: dict[str, tuple[Path, str]] = {}
"""The file of each module that was imported here, and its text at that time."""


@dataclass(frozen=True)
class OwnCode:
    """What was named; the text of its file and of what this imports from beside it, by path; and where these lie."""

    found: Any
    sources: Mapping[str, str]
    files: Collection[str] = ()


def own_code(option: str, spec: str) -> OwnCode:
    """What `spec`, the value of this option, names. Modules whose files have changed are imported again.

    Raises:
        CannotStart: there is no such file, module or name, or it cannot be imported; one line with the reason.
    """
    start = f"{option}={spec}: "
    where, _, name = spec.rpartition(":")
    root, module = _place(start, where)
    try:
        modules = {of: (path, path.read_text("utf-8")) for of, path in files_of(module, root).items()}
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise CannotStart(f"{start}is no Python: {told(error, ())}") from error
    except ImportError as error:  # the only one that the search for imports does not go past
        cure = f"name it as part of its package, such as package.{module}:{name}"
        raise CannotStart(f"{start}a relative import, in a file that is in no package; {cure}") from error
    files = {str(path) for path, _ in modules.values()}
    _make_way(start, modules)
    try:
        with _imported_from(root), strict():
            known = vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise CannotStart(f"{start}cannot be imported: {told(error, files)}") from error
    if name not in known:
        names = [each for each in known if not each.startswith("_")]
        hint = did_you_mean(name, names) or f"; it defines {', '.join(names[:20]) or 'nothing'}"
        raise CannotStart(f"{start}{where} has no {name!r}{hint}")
    sources = {path.relative_to(root).as_posix(): text for path, text in modules.values()}
    return OwnCode(known[name], dict(sorted(sources.items())), files)


def _place(start: str, where: str) -> tuple[Path, str]:
    """The folder from which the module is imported, and its name."""
    if where.endswith(".py"):
        file = user_path(where).resolve()
        if not file.is_file():
            raise CannotStart(f"{start}there is no file {where}; give FILE.py:NAME")
        if "." in file.stem:
            raise CannotStart(f"{start}Python imports no file with a dot in its name; rename {file.name}")
        return file.parent, file.stem
    spec = None
    with suppress(ImportError, ValueError):  # a package above it is missing, or the name is none
        spec = find_spec(where)
    if spec is None or spec.origin is None or not spec.has_location:
        raise CannotStart(f"{start}there is no module {where!r}; give FILE.py:NAME or module:NAME")
    file = Path(spec.origin)
    return file.parents[where.count(".") + (file.name == "__init__.py")], where


def files_of(module: str, root: Path) -> dict[str, Path]:
    """The files of a module and of all that it and they import from `root`, by the names of their modules.

    Of an installed package only its own files.

    Raises:
        SyntaxError, OSError, ValueError, RecursionError: a file is no Python.
    """
    finder = ModuleFinder([str(root)], excludes=_SUITE)
    finder.import_hook(module)
    installed = root.name in ("site-packages", "dist-packages")
    found = {name: Path(str(each.__file__)) for name, each in finder.modules.items() if each.__file__}  # type: ignore[attr-defined]
    first = module.partition(".")[0]
    return {name: path for name, path in found.items() if not installed or name.partition(".")[0] == first}


def _make_way(start: str, modules: Mapping[str, tuple[Path, str]]) -> None:
    """Forgets modules of these names that were imported here from other files, or before their files changed."""
    for name in modules.keys() & sys.modules.keys() - _IMPORTED.keys():
        path, loaded = modules[name][0], getattr(sys.modules[name], "__file__", None)
        if loaded is None or Path(loaded).resolve() != path.resolve():  # Python would take it instead
            other = f"another module is named {name!r} ({loaded or 'a part of Python'})"
            raise CannotStart(f"{start}{path} cannot be imported: {other}; rename the file")
    before = {name: _IMPORTED[name] for name in modules.keys() & _IMPORTED.keys()}
    if any(modules[name] != one for name, one in before.items()):
        for name in before:
            sys.modules.pop(name, None)
    _IMPORTED.update(modules)


@contextmanager
def _imported_from(root: Path) -> Iterator[None]:
    """Inside, Python looks in this folder first; afterwards last, for what is imported while the code runs."""
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leaves nothing beside the person's files
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(root))
        sys.path += {str(root)} - {*sys.path}


@contextmanager
def strict() -> Iterator[None]:
    """Inside, arguments that a library ignores with a warning are errors."""
    with warnings.catch_warnings():
        for mistake in _MISTAKES:
            warnings.filterwarnings("error", message=mistake)
        yield


def told(error: BaseException, files: Collection[str]) -> str:
    """The error in one line, with the last line of these files that led to it."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = [place for place in places if place[0] in files]
    text = " ".join(str(error).split())[:_LONGEST]
    if isinstance(error, SyntaxError) and error.filename:
        text, places = error.msg, [(error.filename, error.lineno)]
    where = f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}: {text}{where}"
