"""Files that users name, and files that are read back: opened without waiting, replaced whole, checked."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

_MARK = b"\nsha256 "
_SEAL_BYTES = len(_MARK) + 64
_CHUNK = 1 << 20


class Damaged(Exception):
    """The content of a file is not what was written into it; the message says why and does not name the file."""


def user_path(text: str) -> Path:
    """The path that a user typed; `~` is the home folder, and a `~NAME` of nobody is a name like any other."""
    return Path(os.path.expanduser(text))


def open_file(path: Path) -> BufferedReader:
    """The file, opened for reading. Links are followed.

    Raises:
        OSError: it cannot be opened, or it is a folder, a pipe or a device, which could make the program wait for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file, but a folder, a pipe or a device", str(path))
    return os.fdopen(descriptor, "rb")


@contextmanager
def sealed(path: Path) -> Iterator[BinaryIO]:
    """A file to write into. At the end it gets its digest, is on the disk, and takes the place of `path`.

    If anything fails, `path` stays as it was, and nothing is left beside it.

    Raises:
        OSError: it cannot be written.
    """
    with _beside(path) as partial:
        with partial.open("w+b") as file:
            yield file
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0, os.SEEK_END)
            file.write(_MARK + digest.encode())
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could leave an empty file with the new name
        os.replace(partial, path)


def check_writable(path: Path) -> None:
    """Checks that `sealed` can write the file, without changing it.

    Raises:
        OSError: it cannot be written.
    """
    with _beside(path) as partial:
        partial.touch()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The name of a temporary file in the folder of `path`, which is made; the file is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def unsealed(path: Path) -> Iterator[BinaryIO]:
    """The file that `sealed` wrote, at its beginning, after its digest was checked. The digest follows the content.

    Raises:
        OSError: it cannot be read.
        Damaged: it is not what was written.
    """
    with open_file(path) as file:
        left = os.fstat(file.fileno()).st_size - _SEAL_BYTES
        sha = hashlib.sha256()
        while left > 0 and (block := file.read(min(left, _CHUNK))):
            sha.update(block)
            left -= len(block)
        seal = file.read()
        if not seal.startswith(_MARK):
            raise Damaged("it does not end with a digest: it is cut off, of another kind, or of version 0.2 or older")
        if seal != _MARK + sha.hexdigest().encode():
            raise Damaged("its content does not match its digest")
        file.seek(0)
        yield file
