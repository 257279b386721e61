"""Losses that methods share, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.state import Tensors


def proximal(parameters: Iterable[tuple[str, Tensor]], anchor: Tensors) -> Tensor:
    """Half the squared distance to the received weights, ½‖w - w^t‖² (Li et al., MLSys 2020, eq. 2).

    Args:
        parameters: Names and values of the trained parameters.
        anchor: w^t under the same names.

    Returns:
        A scalar whose gradient is w - w^t; zero, not undefined, at the start.
    """
    return torch.stack([(value - anchor[name]).square().sum() for name, value in parameters]).sum() / 2


def balanced_softmax(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int], strength: float = 1.0, floor: int = 0
) -> Tensor:
    """Cross-entropy of logits + strength · log n_c (Ren et al., NeurIPS 2020), mean over the batch.

    Args:
        logits: [n, C].
        labels: int64 [n], of classes that occur.
        class_counts: n_c, length C. A class that does not occur (n_c = 0) gets -∞ and so no gradient.
        strength: How much of the prior is added.
        floor: Smallest count that is assumed; 1 makes absent classes be pushed down instead.
    """
    counts = torch.tensor(class_counts, device=logits.device, dtype=logits.dtype).clamp(min=floor)
    return functional.cross_entropy(logits + strength * counts.log(), labels)
