"""Networks of one's own: a function in a file or module, and the sources that decide what it builds."""

import ast
import importlib
import importlib.util
import inspect
import sys
import tokenize
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import did_you_mean
from ..system.files import user_path
from .weights import NetworkError

_SUITE = ("experiments", "cam_core")  # their code is part of every fingerprint


@dataclass(frozen=True)
class Own:
    """The function, and the text of its file and of what this imports from beside it, by path below `root`."""

    function: Callable[..., object]
    root: Path
    sources: Mapping[str, str]

    @property
    def files(self) -> frozenset[str]:
        """The paths of these files."""
        return frozenset(str(self.root / name) for name in self.sources)


def own(option: str, text: str) -> Own:
    """The function that `FILE.py:function` or `module:function` names, as the value of `option`.

    Raises:
        NetworkError: there is no such file, module or function, or it cannot be imported.
    """
    where, _, name = text.rpartition(":")
    file, root, module_name = _place(option, text, where)
    try:
        sources = sources_of(file, root)
    except SyntaxError as error:
        raise NetworkError(f"{option}={text}: {where} is no Python: {told(error, ())}") from error
    except (OSError, ValueError) as error:
        raise NetworkError(f"{option}={text}: {where} is no Python that can be read ({error})") from error
    files = {str(root / path) for path in sources}
    for path in sources:
        _refuse_other(option, text, root / path, _module_of(path))
    try:
        with _importing_from(root):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise NetworkError(f"{option}={text}: {where} cannot be imported: {told(error, files)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [other for other, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        what = "has no function" if function is None else "has something else, no function, named"
        raise NetworkError(f"{option}={text}: {where} {what} {name!r}{did_you_mean(name, known)}")
    return Own(function, root, sources)


def _place(option: str, text: str, where: str) -> tuple[Path, Path, str]:
    """The file, the folder from which it is imported, and the name of its module."""
    if where.endswith(".py"):
        file = user_path(where).resolve()
        if not file.is_file():
            raise NetworkError(f"{option}={text}: there is no file {where}; give FILE.py:function")
        return file, file.parent, file.stem
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):  # a package above it is missing, or the name is none
        spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        raise NetworkError(f"{option}={text}: there is no module {where!r}; give FILE.py:function, or module:function")
    file = Path(spec.origin).resolve()
    return file, file.parents[where.count(".") + (file.name == "__init__.py")], where


def sources_of(file: Path, root: Path) -> dict[str, str]:
    """The text of a file and of all modules that it and they import from `root`, by path below `root`, sorted.

    Of an installed package only its own files.

    Raises:
        SyntaxError, OSError, ValueError: a file is no Python.
    """
    only = file.relative_to(root).parts[0] if root.name in ("site-packages", "dist-packages") else None
    found: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        with tokenize.open(path) as opened:
            found[name] = opened.read()
        for module in _imported(ast.parse(found[name], str(path)), _module_of(name), path.name == "__init__.py"):
            if module.partition(".")[0] not in _SUITE and only in (None, module.partition(".")[0]):
                waiting += _files_of(module, root)
    return dict(sorted(found.items()))


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """The dotted names that a module imports; some may be attributes of modules."""
    above = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = len(above) - node.level + is_package
            base = ".".join([*(above[:up] if node.level else ()), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _files_of(module: str, root: Path) -> Iterator[Path]:
    """The files below `root` that are run when this module is imported."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


def _refuse_other(option: str, text: str, path: Path, module: str) -> None:
    """Checks that no other file has been imported under this name, which Python would then take."""
    loaded = getattr(sys.modules.get(module), "__file__", None) if module in sys.modules else str(path)
    if loaded is None or Path(loaded).resolve() != path:
        raise NetworkError(
            f"{option}={text}: {path} cannot be imported, because another module is named {module!r} "
            f"({loaded or 'a part of Python'}); rename the file"
        )


@contextmanager
def _importing_from(root: Path) -> Iterator[None]:
    """Imports prefer files in the folder. Afterwards it is the last place, for imports while a network runs."""
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        if str(root) not in sys.path:
            sys.path.append(str(root))


def told(error: BaseException, files: Collection[str]) -> str:
    """The error in one line, with the last line of these files that led to it."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    places = [f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in frames if frame.filename in files]
    return f"{type(error).__name__}: {lines[0][:200]}{places[-1] if places else ''}"
