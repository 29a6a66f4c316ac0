"""Processes of this machine: how many cores they may use, and whether a process is still running.

Process numbers are used again, so a process is identified by its number and its start time.
"""

import os
import socket
from pathlib import Path


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here() -> str:
    """The host and the container, if any. Process numbers can be compared only if this text is the same."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
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
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
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
    return _state(pid) not in ("Z", "X") and (not start or started(pid) == start)


def _state(pid: int) -> str:
    return _stat(pid)[0]
