"""Losses that methods share, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.federation.state import Tensors


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
    logits: Tensor, labels: Tensor, class_counts: Sequence[int] | Tensor, strength: float = 1.0, floor: int = 0
) -> Tensor:
    """Cross-entropy of logits + strength · log n_c (Ren et al., NeurIPS 2020), mean over the batch.

    Args:
        logits: [n, C].
        labels: int64 [n], of classes that occur.
        class_counts: n_c, length C. A class that does not occur (n_c = 0) gets -∞ and so no gradient.
        strength: Factor of the log counts.
        floor: Lower bound of the counts; with 1, logits of absent classes are pushed down.
    """
    counts = torch.as_tensor(class_counts, device=logits.device, dtype=logits.dtype).clamp(min=floor)
    return functional.cross_entropy(logits + strength * counts.log(), labels)


def dot_regression(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Dot regression of features on their class's row (Yang et al., NeurIPS 2022, eq. 9), mean over the batch.

    ½ (cos(h, w_y) - 1)²: zero where h points along w_y. No other row repels h. Features and rows are normalised first,
    as in the authors' code, so that the loss turns h and does not change its length.

    Args:
        features: h [n, d].
        weight: w [C, d], fixed.
        labels: int64 [n].
    """
    cosines = functional.cosine_similarity(features, weight[labels], dim=1)
    return (cosines - 1).square().mean() / 2


def head_gradients(logits: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear head on the examples of each class alone, in closed form.

    Of class c's mean cross-entropy: G^c = mean_{i: y_i=c} (softmax(z_i) - e_c) h_iᵀ.

    Args:
        logits: z [n, C].
        features: h [n, d].
        labels: int64 [n].

    Returns:
        Gradients of the weight [C, C, d], indexed by c first, and of the bias [C, C]; zero for absent classes.
    """
    errors = logits.softmax(1) - functional.one_hot(labels, logits.shape[1]).to(logits)
    weight, bias = features.new_zeros(*errors.shape[1:] * 2, features.shape[1]), errors.new_zeros(errors.shape[1:] * 2)
    for c in torch.unique(labels).tolist():
        own = errors[labels == c]
        weight[c], bias[c] = own.T @ features[labels == c] / len(own), own.mean(0)
    return weight, bias


def update_ratios(steps: Tensor, similarity: float = 0.8, cap: float = 5000.0) -> Tensor:
    """How much each class moves the head against the others, R_c (Wang et al., AAAI 2021).

    An entry (i, j) of the head belongs to the class c* whose step there is the largest (signed), unless another
    class's is more than ``similarity`` times as large in absolute value. Over the entries of class c,
    R_c = |Σ Δ^c| / |Σ mean_{q≠c} Δ^q|; 10 if the denominator is zero, at most ``cap``.

    Args:
        steps: Δ [C, C, d], the change of the head [C, d] by each class; a common factor does not matter.
        similarity: Largest ratio of another class's step to the largest one.
        cap: Largest ratio.

    Returns:
        R [C].
    """
    num_classes = len(steps)
    flat = steps.flatten(1).double()
    owner = flat.argmax(0)
    own = flat.gather(0, owner[None]).abs()
    is_owner = functional.one_hot(owner, num_classes).T.bool()
    rivals = (flat.abs() > similarity * own) & ~is_owner
    owned = is_owner & ~rivals.any(0)
    others = (flat.sum(0) - flat) / (num_classes - 1)
    numerator, denominator = ((part * owned).sum(1).abs() for part in (flat, others))
    ratios = torch.where(denominator == 0, 10.0, numerator / denominator.where(denominator != 0, 1.0))
    return ratios.clamp(max=cap).to(steps)
