"""A process is known by its number and its start, whatever its name is."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from experiments.system.processes import is_alive, started


def test_the_name_of_a_process_may_be_any_bytes(tmp_path: Path) -> None:
    """The name stands in the file that tells the start; a number is used again, by any program."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc on this system")
    program = os.fsencode(tmp_path) + b"/\xff) (\n"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "900"])
    try:
        assert started(process.pid).isdigit()
        assert is_alive(process.pid, started(process.pid))
        assert not is_alive(process.pid, "1")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
