"""How this process computes on the CPU: its threads, and what becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import functools

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2**30
"""Bytes that may lie free at the end of the heap, and up to which a block is taken from it at all."""


def configure_cpu(threads: int) -> None:
    """Set torch's threads, and keep freed memory."""
    torch.set_num_threads(threads)
    keep_freed_memory()


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for what comes next, in this process and from now on; returns whether it does.

    By itself glibc hands large blocks back to the system, and a training step asks for the same blocks again as the
    step before: with ResNet-18 and batches of 8 that is 30,000 page faults a step, a sixth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # another C library
    limits = KEPT, KEPT // 32  # before glibc 2.35 the threshold may not lie above 32 MiB
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and any(mallopt(M_MMAP_THRESHOLD, limit) for limit in limits)
