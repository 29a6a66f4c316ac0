"""Freed memory is kept where the C library can be told so, and nothing happens elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.system import allocator

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")

COUNT = """
import resource, sys
from experiments.system.allocator import keep_freed_memory

took = keep_freed_memory() if sys.argv[1] == "keep" else False

def rounds(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        first, second = bytearray(64 << 20), bytearray(64 << 20)
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

rounds(1)
print(int(took), rounds(5))
"""


def faults(how: str) -> tuple[bool, int]:
    """Whether it took, and the page faults of ten blocks of 64 MB, written and freed two by two, in a new process."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", COUNT, how], cwd=root, check=True, capture_output=True, text=True)
    took, count = done.stdout.split()
    return took == "1", int(count)


@linux_only
def test_large_blocks_are_used_again_without_new_pages() -> None:
    took, kept = faults("keep")
    if not took:
        pytest.skip("this C library cannot be told")
    _, returned = faults("return")
    assert returned > 300  # ten blocks of 32 huge pages, or far more small ones
    assert kept < returned / 10


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", platform)
    monkeypatch.delattr(allocator.ctypes, "CDLL")
    assert allocator.keep_freed_memory() is False


@linux_only
def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
