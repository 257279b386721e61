"""Threads and memory of this process on the CPU."""

from __future__ import annotations

import ctypes
import functools

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2**30
"""Bytes that may stay free at the end of the heap, and limit of the blocks that are allocated from it."""


def configure_cpu(threads: int) -> None:
    """Set torch's threads, and keep freed memory."""
    torch.set_num_threads(threads)
    keep_freed_memory()


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process for later allocations; returns whether it does.

    By default glibc returns large blocks to the system, and every training step allocates the same blocks again. With
    ResNet-18 and batches of 8 that is 30,000 page faults a step, a sixth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # another C library
    limits = KEPT, KEPT // 32  # before glibc 2.35 the threshold may not lie above 32 MiB
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and any(mallopt(M_MMAP_THRESHOLD, limit) for limit in limits)
