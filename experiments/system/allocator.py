"""The C library's memory allocator, told to keep what a training frees and asks for again at every step."""

import ctypes
import sys

# Of glibc's malloc.h, with the values for a process that keeps what it has.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _STEP_BYTES = 2**31 - 1, 256 << 20


def keep_freed_memory() -> bool:
    """True where large blocks that are freed stay with the process from now on; False, and nothing done, elsewhere.

    By default glibc asks the kernel for every large block and gives it back at once, so that each training step on a
    CPU pays for mapping and clearing the same pages again. Afterwards the process stays as large as it ever was. The
    same as starting it with MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ (mallopt(3)).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _STEP_BYTES}
    taken = [libc.mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(taken)
