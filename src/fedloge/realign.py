"""Realignment of a head by its row norms: GA-FR for the generic model, LA-FR for the personal models."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Bias = TypeVar("Bias", Tensor, None)


def tau_normalise(weight: Tensor, tau: float) -> Tensor:
    """τ-normalisation (Kang et al., ICLR 2020): w_c / ‖w_c‖^τ for every row of a head [C, d]; a zero row stays zero."""
    norms: Tensor = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return weight / norms**tau


def ga_fr(
    weight: Tensor, bias: Bias, *, scale: float = 1.7, keep_bias: bool = True, tau: float = 1.0
) -> tuple[Tensor, Bias]:
    """Global adaptive feature realignment (eq. 6): ψ̂_c = scale · ψ_c / ‖ψ_c‖.

    Args:
        weight: ψ [C, d].
        bias: Bias of ψ [C], or None.
        scale: Common row norm; it matters only relative to a kept bias (the released code has 1.7).
        keep_bias: Whether to keep the bias; otherwise it becomes zero.
        tau: Exponent τ of the normalisation: 1 is GA-FR, smaller values equalise the norms partly.

    Returns:
        Weight [C, d] with rows of norm ``scale`` (for τ = 1; a zero row stays zero), and the bias.
    """
    realigned = scale * tau_normalise(weight, tau)
    if bias is None or keep_bias:
        return realigned, bias
    return realigned, bias.new_zeros(bias.shape)


def la_fr(psi_weight: Tensor, phi_weight: Tensor) -> Tensor:
    """Local adaptive feature realignment (eq. 7): φ'_{k,c} = ψ_c · ‖φ_{k,c}‖.

    Args:
        psi_weight: ψ [C, d] as it is (eq. 7), or with unit rows (Algorithm 1 normalises it first).
        phi_weight: φ_k [C, d], of which only the row norms are used.

    Returns:
        φ'_k [C, d].
    """
    norms: Tensor = phi_weight.norm(dim=1, keepdim=True)
    return psi_weight * norms


def la_fr_by_distribution(psi_weight: Tensor, class_counts: Tensor) -> Tensor:
    """LA-FR with the client's class distribution n_{k,c}/n_k in place of the norms of φ_k (Table 7).

    Args:
        psi_weight: ψ [C, d].
        class_counts: n_{k,c} [C] of the training data; a client without data gets a zero head.

    Returns:
        φ'_k [C, d].
    """
    shares: Tensor = (class_counts / class_counts.sum().clamp(min=1)).to(psi_weight)
    return psi_weight * shares.unsqueeze(1)
