"""Makes the C library keep the memory that a training frees and requests again in every step."""

import ctypes
import sys

# Names of glibc's malloc.h; with these values a process keeps its memory.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _STEP_BYTES = 2**31 - 1, 256 << 20


def keep_freed_memory() -> bool:
    """Makes the process keep large blocks that it frees; returns False, and does nothing, without glibc on Linux.

    By default glibc requests every large block from the kernel and returns it at once, so each training step on a CPU
    pays for mapping and clearing the same pages again. After this call the process does not shrink any more. The
    variables MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ have the same effect (mallopt(3)).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _STEP_BYTES}
    taken = [libc.mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(taken)
