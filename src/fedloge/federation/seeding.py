"""Where randomness comes from: one generator per (seed, round, client, stream).

Nothing in fedloge reads the global random state, so a result depends neither on the order in which clients are
trained nor on the executor that trains them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

SERVER = 0xFFFFFFFF
"""The ``client`` of everything that the server draws."""


class Stream(IntEnum):
    """What a generator is for; a stream added later never shifts an older one."""

    ORDER = 0  # order of the examples in a local epoch
    AUGMENT = 1  # crops and flips
    MODULE = 2  # dropout and whatever else a user's module draws from torch's global state
    PERSONAL = 3  # initial personal state of a client
    COHORT = 4  # which clients take part in a round
    PREPARE = 5  # what the server draws once before the first round (SSE-C)
    AUXILIARY = 6  # the server's own images, where it has some
    SERVER_ROUND = 7  # what the server draws in a round


def derive(seed: int, round: int, client: int, stream: Stream, extra: int = 0) -> int:
    """A 63-bit integer that depends on nothing but its arguments (``extra`` numbers epochs or phases)."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(round, client, int(stream), extra))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, round: int, client: int, stream: Stream, extra: int = 0) -> torch.Generator:
    """A CPU generator seeded with :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, round, client, stream, extra))
