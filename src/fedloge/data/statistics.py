"""Statistics of a partition: class shares of the clients and their distance from the global distribution."""

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
    """Number of classes of which a client has at least one image, int64 [K]."""
    result: Ints = (counts > 0).sum(1)
    return result


def effective_classes(counts: Ints) -> Floats:
    """exp(H) of the class shares of each client, float64 [K]: n equally frequent classes give n."""
    own = shares(counts)
    logs = np.log(own, out=np.zeros_like(own), where=own > 0)
    result: Floats = np.exp(-(own * logs).sum(1))
    return result


def distance_to_global(counts: Ints) -> Floats:
    """Total variation distance ½ Σ_c |n_{k,c}/n_k - N_c/N| of each client, float64 [K].

    0 is the distribution of all clients together; a client whose classes no other client has is close to 1.
    """
    whole = counts.sum(0) / max(counts.sum(), 1)
    result: Floats = np.abs(shares(counts) - whole).sum(1) / 2
    return result
