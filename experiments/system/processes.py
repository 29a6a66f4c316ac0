"""What this machine tells of processes: the cores they may use, and whether one still lives.

A process is told from a later one of its number by when it started.
"""

import os
import socket
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here() -> str:
    """What tells the processes that this one sees from those of other machines, and of containers of one name."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str:
    """What tells a process from a later one of its number: the clock ticks at its start, or "" without /proc."""
    return _stat(pid)[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [""] * 20


def is_alive(pid: int, start: str) -> bool:
    """Whether the process `pid` that began at `start` still runs; where `start` is "", any process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # One that nobody waits for stays in the table when it is dead, for ever where process 1 of a container buries none.
    return _state(pid) not in ("Z", "X") and (not start or started(pid) == start)


def _state(pid: int) -> str:
    return _stat(pid)[0]
