"""Processes of this machine: how many cores they may use, whether one is still running, and which ones use a file.

Process numbers are used again, so a process is identified by its number and its start time.
"""

import contextlib
import os
import socket
from pathlib import Path


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here() -> str:
    """The host, its boot and the container. Process numbers can be compared only if this text is the same.

    A container has process numbers of its own, and its host name can be that of another machine.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str:
    """The start time of a process in clock ticks; "" without /proc.

    A later process with the same number has another one.
    """
    return _stat(pid)[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat, starting with the third, which is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return [""] * 20


def is_alive(pid: int, start: str) -> bool:
    """Whether the process `pid` that started at `start` is running; if `start` is "", any process `pid` counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # A dead process stays in the table until its parent waits for it. In some containers this never happens.
    # The start of a process of another user may be hidden.
    return _state(pid) not in ("Z", "X") and (not start or started(pid) in (start, ""))


def _state(pid: int) -> str:
    return _stat(pid)[0]


def users_of(path: Path) -> list[int]:
    """The other processes that have the file open, as far as this user can see them; none without /proc."""
    found = []
    with contextlib.suppress(OSError):
        target = path.stat()
        for folder in Path("/proc").glob("[0-9]*"):
            if folder.name != str(os.getpid()) and _has_open(folder, target):
                found.append(int(folder.name))
    return found


def _has_open(process: Path, target: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(handle.stat(), target):
                    return True
    return False


def lockers_of(path: Path) -> list[int]:
    """The other processes that keep others from writing the file; none without /proc/locks."""
    found = set()
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # number, kind, ADVISORY, READ or WRITE, process, device and inode, range
            if words[1] != "->" and words[3] == "WRITE" and words[5].rpartition(":")[2] == inode:
                found.add(int(words[4]))
    return sorted(found - {os.getpid(), 0, -1})


def named(pid: int) -> str:
    """A process in words: `process 12 (python -m experiments.tune)`. Its options are left out: they may be secret."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"process {pid}"
    program = [Path(words[0]).name, *(words[1:3] if words[1:2] == ["-m"] else [])]
    return f"process {pid} ({' '.join(program)})"
