"""Makes the C library keep freed memory, so that big tensors are reused instead of mapped anew.

glibc returns every freed block of megabytes to the kernel, and the next tensor pays one page fault for every
4 KiB. Elementwise work on large tensors then spends more time in the kernel than in arithmetic.
"""

from __future__ import annotations

import ctypes

# Parameter numbers of mallopt(3), fixed by glibc's ABI.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; call it before the first large tensor.

    Returns
    -------
    bool
        Whether it took effect. Other C libraries have no such setting: nothing happens there.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (present in glibc alone; musl's mallopt does nothing)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    # A threshold of -1 switches trimming off; the pad makes the heap grow in few large steps.
    done = [mallopt(name, value) for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))]
    return done == [1, 1, 1]
