"""Random generators, one per (seed, round, client, stream).

Nothing in fedloge reads the global random state, so a result depends neither on the order in which clients are
trained nor on the executor that trains them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

SERVER = 0xFFFFFFFF
"""Value of ``client`` for draws of the server."""


class Stream(IntEnum):
    """Purpose of a generator; a stream added later never shifts an older one."""

    ORDER = 0  # order of the examples in a local epoch
    AUGMENT = 1  # crops and flips
    MODULE = 2  # draws from torch's global generators, as by dropout
    PERSONAL = 3  # initial personal state of a client
    COHORT = 4  # which clients take part in a round
    PREPARE = 5  # draws of the server before the first round (SSE-C)
    AUXILIARY = 6  # auxiliary images of the server, if it has any
    SERVER_ROUND = 7  # draws of the server in a round


def derive(seed: int, round: int, client: int, stream: Stream, extra: int = 0) -> int:
    """A 63-bit integer that depends on its arguments only (``extra`` numbers epochs or phases)."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(round, client, int(stream), extra))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, round: int, client: int, stream: Stream, extra: int = 0) -> torch.Generator:
    """A CPU generator seeded with :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, round, client, stream, extra))
