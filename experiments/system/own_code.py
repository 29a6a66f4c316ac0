"""Code of one's own: what `FILE.py:NAME` or `module:NAME` names, the sources that decide it, and the errors in it."""

import ast
import importlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
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
    """What was named, and the text of its file and of what this imports from beside it, by path."""

    found: Any
    sources: Mapping[str, str]


def own_code(option: str, spec: str) -> OwnCode:
    """What `spec`, the value of this option, names. Modules whose files have changed are imported again.

    Raises:
        CannotStart: there is no such file, module or name, or it cannot be imported; one line with the reason.
    """
    start = f"{option}={spec}: "
    where, _, name = spec.rpartition(":")
    root, module = _place(start, where)
    try:
        modules = _texts(module, root)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise CannotStart(f"{start}is no Python: {told(error)}") from error
    _make_way(start, modules)
    try:
        with _imported_from(root), strict():
            known = vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        relative = isinstance(error, ImportError) and "relative import" in str(error)
        cure = f"; name it as part of its package, such as package.{module}:{name}" if relative else ""
        raise CannotStart(f"{start}cannot be imported: {told(error)}{cure}") from error
    if name not in known:
        names = [each for each in known if not each.startswith("_")]
        hint = did_you_mean(name, names) or f"; it defines {', '.join(names[:20]) or 'nothing'}"
        raise CannotStart(f"{start}{where} has no {name!r}{hint}")
    sources = {path.relative_to(root).as_posix(): text for path, text in modules.values()}
    return OwnCode(known[name], dict(sorted(sources.items())))


def own_function(option: str, spec: str) -> OwnCode:
    """As `own_code`, of a function or class.

    Raises:
        CannotStart: as there, or it is something else, such as a network.
    """
    code = own_code(option, spec)
    if not callable(code.found) or (hasattr(code.found, "forward") and not isinstance(code.found, type)):
        raise CannotStart(f"{option}={spec}: is a {type(code.found).__name__}; must be a function or class")
    return code


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


def _texts(module: str, root: Path) -> dict[str, tuple[Path, str]]:
    """The files, with their texts, of a module and of all that it and they import from `root`, by names of modules.

    Of an installed package only its own files.

    Raises:
        SyntaxError, OSError, ValueError, RecursionError: a file is no Python.
    """
    installed = root.name in ("site-packages", "dist-packages")
    found: dict[str, tuple[Path, str]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        place, first = root.joinpath(*name.split(".")), name.partition(".")[0]
        files = [file for file in (place / "__init__.py", place.with_name(f"{place.name}.py")) if file.is_file()]
        if name in found or not files or first in _SUITE or (installed and first != module.partition(".")[0]):
            continue
        text = files[0].read_text("utf-8-sig")
        found[name] = (files[0], text)
        package = name.split(".") if files[0].name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(text, str(files[0]))):
            waiting += _named(node, package)
        waiting += [".".join(package[: i + 1]) for i in range(len(package))]
    return found


def _named(node: ast.AST, package: list[str]) -> list[str]:
    """The modules that an import in this package may mean, those above them included."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        start = [*above, *(node.module.split(".") if node.module else [])]
        names = [[*start, alias.name] for alias in node.names]
    else:
        return []
    return [".".join(name[: i + 1]) for name in names for i in range(len(name))]


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


def told(error: BaseException) -> str:
    """The error in one line, with the last line of one's own code that led to it. Raises a request to end again."""
    if isinstance(error, SystemExit) and type(error) is not SystemExit:
        raise error
    text, where = " ".join(str(error).split())[:_LONGEST], _where(error)
    if isinstance(error, SyntaxError) and error.filename:
        text, where = error.msg, (error.filename, error.lineno)
    place = f" ({Path(where[0]).name}, line {where[1]})" if where else ""
    return f"{type(error).__name__}: {text}{place}"


def is_own(error: BaseException) -> bool:
    """Whether one's own code led to the error."""
    return _where(error) is not None


def _where(error: BaseException) -> tuple[str, int | None] | None:
    files = {str(path) for path, _ in _IMPORTED.values()}
    frames = traceback.extract_tb(error.__traceback__)
    return next(((frame.filename, frame.lineno) for frame in reversed(frames) if frame.filename in files), None)
