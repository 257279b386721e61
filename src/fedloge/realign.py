"""Realigning a head by its row norms: GA-FR for the generic model, LA-FR for the personal ones."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def ga_fr(weight: Tensor, bias: Tensor, *, scale: float = 1.7, keep_bias: bool = True) -> tuple[Tensor, Tensor]:
    """Global adaptive feature realignment (eq. 6): ψ̂_c = scale · ψ_c / ‖ψ_c‖.

    Args:
        weight: ψ [C, d].
        bias: Its bias [C].
        scale: The common norm; it matters only against a kept bias (the released code has 1.7).
        keep_bias: Whether the bias stays, or becomes zero.

    Returns:
        Weight [C, d] with rows of norm ``scale`` (a zero row stays zero), and the bias.
    """
    return scale * functional.normalize(weight), bias if keep_bias else bias.new_zeros(bias.shape)


def la_fr(psi: Tensor, phi: Tensor, *, source: Literal["raw", "unit"] = "raw") -> Tensor:
    """Local adaptive feature realignment (eq. 7): φ'_{k,c} = ψ_c · ‖φ_{k,c}‖.

    Args:
        psi: ψ [C, d].
        phi: φ_k [C, d], of which only the row norms are used.
        source: ψ as it is, or with unit rows (Algorithm 1 normalises it first).

    Returns:
        φ'_k [C, d].
    """
    if source == "unit":
        psi = functional.normalize(psi)
    norms: Tensor = phi.norm(dim=1, keepdim=True)
    return psi * norms


def la_fr_by_distribution(psi: Tensor, class_counts: Tensor) -> Tensor:
    """LA-FR with the client's class distribution n_{k,c}/n_k in place of the norms of φ_k (Table 7).

    Args:
        psi: ψ [C, d].
        class_counts: n_{k,c} [C] of the training data, not all zero.

    Returns:
        φ'_k [C, d].
    """
    shares: Tensor = (class_counts / class_counts.sum()).to(psi)
    return psi * shares.unsqueeze(1)
