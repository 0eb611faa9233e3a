"""The C library's allocator, set for a program that makes and frees tensors of the same sizes over and over."""

import ctypes
import platform

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """
    Keep what is freed for the next allocation, instead of giving it back to the system.

    By default, glibc fetches each large block from the system and gives it back; that its pages are then cleared and
    mapped anew takes longer than many of the network's layers. The setting is that of the whole process and is not
    meant to change again: for programs, not for libraries. Where the C library is another one, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
        mallopt(M_TOP_PAD, 64 * 2**20)


__all__ = ["keep_freed_memory"]
