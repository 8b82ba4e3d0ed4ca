"""What glibc does with freed memory: a site keeps it, a server gives it back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGEST = 32 << 20  # bytes; the most that glibc lets MMAP_THRESHOLD be
_SMALL = 64 << 10  # bytes; below the buffers of a TLS connection


def keep_freed_memory() -> None:
    """Tell glibc to hand freed memory back to the system only when it exits.

    Between two rounds a site frees and takes buffers as large as the model. Glibc gives
    the end of its heap back each time, and the next steps fetch it page by page:
    0.1 s a round with resnet18 and four sites. On other systems nothing is changed; of
    no account on an accelerator, whose memory torch keeps by itself.
    """
    _set(_MMAP_THRESHOLD, _LARGEST)
    _set(_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Tell glibc to keep one heap, and to give back larger buffers once freed.

    A process that passes on bodies for months would else leave holes in its heap, as
    glibc learns from the first large buffers to keep all later ones there. And each of
    the threads that come and go would leave holes in a heap of its own: a ServerApp
    grew by 0.03 MB a round. Called before there are threads.
    """
    _set(_ARENA_MAX, 1)
    _set(_MMAP_THRESHOLD, _SMALL)
    _set(_TRIM_THRESHOLD, _SMALL)


def _set(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(option, value)
