"""The cohort of a round."""

from __future__ import annotations

import torch

from fedloge.federation.seeding import SERVER, Stream, generator


def cohort_size(num_clients: int, participation: float) -> int:
    """Number of clients of a round: ``max(floor(participation · K), 1)``."""
    return max(int(participation * num_clients + 1e-9), 1)


def sample_cohort(seed: int, round: int, num_clients: int, participation: float) -> list[int]:
    """The clients of a round in increasing order: :func:`cohort_size` of K, without replacement.

    Depends on its arguments alone, so a resumed run draws the same cohorts.
    """
    size = cohort_size(num_clients, participation)
    order = torch.randperm(num_clients, generator=generator(seed, round, SERVER, Stream.COHORT))
    return sorted(order[:size].tolist())
