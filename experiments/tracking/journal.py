"""The journal of a run on this machine: entries in their order, each with length and checksum, and the files they name.

A journal is a folder:

    journal     one line for each entry: checksum (CRC-32), length in bytes, the entry as JSON
    files/N/    the files of one entry, which holds the SHA-256 of each
    sent        how much of it MLflow has, and the id that MLflow gave the run: one such line
    writing     locked by the process that writes; the system frees the lock when that process dies
    sending     locked by the process that sends, so that no two processes send the same entry

The records are framed as in the log of LevelDB. Each is a line, so that a reader finds the next entry after a damaged
one. A line without its end is an entry that a kill or a full disk cut short: the next writer ends it, and readers skip
it. `append` returns when the disk has the entries.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

SYNCED_AT_ONCE = 16  # files
REFUSED = "refused"  # the folder of what no command sends again
_REMOVED = ".sent"  # the ending of folders that are being removed
Entry = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A complete line of a journal: its entry, or None if it is damaged; `end` is the offset of the next line."""

    text: str
    entry: Entry | None
    end: int


@dataclass(frozen=True)
class Sent:
    """How much MLflow has: the id of the run there, and the offset up to which entries are sent.

    `closed`: the process that wrote the run died, and the run is marked as KILLED.
    """

    run: str | None = None
    offset: int = 0
    closed: bool = False


class Journal:
    """The journal in `folder`, whose name is the key of the journal: 32 hex digits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, folder.name
        self._path = folder / "journal"
        self._writing = FileLock(folder / "writing", thread_local=False)
        self.sending = FileLock(folder / "sending", thread_local=False)
        self._places = 0

    # ---------------------------------------------------------------------------------------------------- writing

    def open(self) -> bool:
        """Takes the lock of the writer and ends a line that was cut short; False if another process writes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._writing.acquire(timeout=0)
        except Timeout:
            return False
        before = self._path.read_bytes() if self._path.exists() else b""
        if before and not before.endswith(b"\n"):
            self._write(b"\n")
        return True

    def close(self) -> None:
        """Frees the lock of the writer."""
        self._writing.release(force=True)

    @property
    def is_written(self) -> bool:
        """Whether a process has the journal open for writing."""
        return _is_held(self._writing)

    def place(self) -> Path:
        """A new folder for the files of an entry."""
        while (folder := self.folder / "files" / str(self._places)).exists():
            self._places += 1
        folder.mkdir(parents=True)
        return folder

    def append(self, entries: Sequence[Entry]) -> None:
        """Writes the entries; returns when the disk has them.

        Raises:
            OSError: the disk is full or broken; then a reader sees none of them, or the first ones whole.
        """
        lines = b"".join(framed(entry) for entry in entries)
        try:
            self._write(lines)
        except OSError:
            with contextlib.suppress(OSError):
                self._write(b"\n")  # what follows must not continue a line that was cut short
            raise

    def _write(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    # ---------------------------------------------------------------------------------------------------- reading

    def lines(self, start: int = 0) -> Iterator[Line]:
        """The complete lines from the offset `start`."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(start)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                start += len(raw)
                yield Line(raw.decode(errors="replace"), parsed(raw), start)

    def entries(self) -> Iterator[Entry]:
        """The entries that are whole."""
        return (line.entry for line in self.lines() if line.entry is not None)

    @property
    def has_ended(self) -> bool:
        """Whether the run of the journal ended, or the journal has only notes on other runs."""
        last = ""
        for entry in self.entries():
            if entry["what"] in ("begin", "reopen", "end", "left"):
                last = "left" if entry.get("notes") else entry["what"]
        return last in ("end", "left")

    @property
    def has_more(self) -> bool:
        """Whether there are entries that MLflow does not have."""
        return next(self.lines(self.sent.offset), None) is not None

    # ---------------------------------------------------------------------------------------------------- sending

    @property
    def sent(self) -> Sent:
        """What a sender has acknowledged; nothing if the note is lost or damaged: the sender then looks."""
        try:
            return Sent(**(parsed((self.folder / "sent").read_bytes()) or {}))
        except OSError:
            return Sent()

    def acknowledge(self, sent: Sent) -> None:
        """Stores how much MLflow has; a reader sees the old or the new note."""
        written = self.folder / "sent.new"
        written.write_bytes(framed(asdict(sent)))
        os.replace(written, self.folder / "sent")

    def set_aside(self) -> Path:
        """Moves the folder to where no command sends it again; returns the new place."""
        place = self.folder.parent / REFUSED / self.key
        place.parent.mkdir(exist_ok=True)
        return self.folder.rename(place)

    def remove(self) -> None:
        """Removes the folder, and what a kill left of others. Call it with the lock of the sender."""
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(self.folder.with_suffix(_REMOVED))  # a folder without its journal would stay for ever
        remove_leftovers(self.folder.parent)


def remove_leftovers(outbox: Path) -> None:
    """Removes what MLflow has, and a kill did not let its sender remove."""
    for folder in outbox.glob(f"*{_REMOVED}"):
        shutil.rmtree(folder, ignore_errors=True)


def sync(folder: Path) -> dict[str, str]:
    """Brings the files below `folder` to the disk; returns the SHA-256 of each by its path there.

    Several at once, because a disk brings many files to safety in the time of one.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        digests = list(pool.map(_to_disk, paths))
    return {path.relative_to(folder).as_posix(): found for path, found in zip(paths, digests, strict=True)}


def _to_disk(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """The files that are not as they were written."""
    return [
        name for name, written in digests.items() if not (path := folder / name).is_file() or digest(path) != written
    ]


def _is_held(lock: FileLock) -> bool:
    if lock.is_locked:
        return True
    try:
        with FileLock(lock.lock_file, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # the folder was removed


def framed(entry: Entry) -> bytes:
    """The line of an entry."""
    body = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)


def parsed(raw: bytes) -> Entry | None:
    """The entry of a line; None if the line is damaged."""
    try:
        checksum, length, body = raw[:-1].split(b" ", 2)
        whole = int(length) == len(body) and int(checksum, 16) == zlib.crc32(body)
        entry = json.loads(body) if whole else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
