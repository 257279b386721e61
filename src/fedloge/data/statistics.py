"""What a partition is like, in numbers: how much each client holds, and how far that is from the whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedloge.data.splits import Ints

Floats = NDArray[np.float64]


def shares(counts: Ints) -> Floats:
    """Class shares n_{k,c} / n_k, float64 [K, C], of counts [K, C]; zeros for a client without images."""
    result: Floats = counts / counts.sum(1, keepdims=True).clip(min=1)
    return result


def present_classes(counts: Ints) -> Ints:
    """Classes that a client has at least one image of, int64 [K]."""
    result: Ints = (counts > 0).sum(1)
    return result


def effective_classes(counts: Ints) -> Floats:
    """exp(H) of a client's class shares, float64 [K]: n equally frequent classes give n, a single one gives 1."""
    own = shares(counts)
    logs = np.log(own, out=np.zeros_like(own), where=own > 0)
    result: Floats = np.exp(-(own * logs).sum(1))
    return result


def distance_to_global(counts: Ints) -> Floats:
    """Total variation ½ Σ_c |n_{k,c}/n_k - N_c/N|, float64 [K]: the share of a client's images of excess classes.

    0 is the distribution of all clients together; the largest value, near 1, is a client whose classes nobody else has.
    """
    whole = counts.sum(0) / max(counts.sum(), 1)
    result: Floats = np.abs(shares(counts) - whole).sum(1) / 2
    return result
