"""Simplex equiangular tight frames, dense and sparse (SSE-C): geometry and solvers.

A frame is a matrix W [C, d] with one row per class, like the weight of a linear layer; the paper writes its transpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_choice, check_positive
from fedloge.errors import ConfigError

Solver = Literal["alternating", "adam"]
Frame = Literal["etf", "closest"]

MIN_KEPT = 2
"""Fewest entries that a class keeps; the angles of a row with a single entry cannot be adjusted."""


@dataclass(frozen=True)
class Geometry:
    """Norm and angle statistics of a frame: how close it is to an equiangular one.

    Angles are taken over all pairs i ≠ j, as in the released statistics (96.379° for C = 10; the mean over nearest
    neighbours alone would be 96.29°). Variances are population variances (no Bessel correction).

    Args:
        norm_mean: Mean row norm.
        norm_var: Variance of the row norms.
        angle_mean: Mean pairwise angle in degrees; the ideal is arccos(-1/(C-1)).
        angle_var: Variance of the pairwise angles in square degrees.
        max_cos_error: Largest ``|cos + 1/(C-1)|`` over all pairs.
    """

    norm_mean: float
    norm_var: float
    angle_mean: float
    angle_var: float
    max_cos_error: float


@dataclass(frozen=True)
class SSEC:
    """A solved SSE-C: weight [C, d], mask [C, d] (True for kept entries), geometry, and the requested solver."""

    weight: Tensor
    mask: Tensor
    geometry: Geometry
    solver: Solver


def sse_c(
    num_classes: int,
    dim: int,
    *,
    beta: float = 0.6,
    gamma: float = 0.1,
    solver: Solver = "alternating",
    frame: Frame = "etf",
    generator: torch.Generator,
) -> SSEC:
    """The static sparse ETF classifier (eq. 2-5), float32: rows of norm γ, equal angles, exactly ⌊βdC⌋ zeros.

    Exactly equal angles are impossible if few entries are kept, with (1-β)d near C/2 or below, or if two classes share
    no kept entry; the returned geometry reports the remaining error.

    Args:
        num_classes: C, at least 2.
        dim: Feature dimension d.
        beta: Fraction β of zero entries; 0 gives the dense ETF.
        gamma: Row norm γ.
        solver: ``alternating`` projection (fast, closer to equal angles), or ``adam``, the paper's solver.
        frame: ``closest`` allows d < C-1 and returns the most equiangular frame found.
        generator: Random generator of the rotation and the mask.

    Raises:
        ConfigError: If C, β, γ and d admit no such frame, or ``solver`` or ``frame`` is unknown.
    """
    check_sse_c(num_classes, dim, beta=beta, gamma=gamma, frame=frame, solver=solver)
    exact = dim >= num_classes - 1
    start = (simplex_etf if exact else closest_frame)(num_classes, dim, generator)
    mask = sparse_mask(num_classes, dim, beta, generator)
    if bool(mask.all()):
        weight = gamma * functional.normalize(start)
    elif solver == "adam":
        weight = solve_adam(start, mask, gamma)[0]
    else:
        weight = (solve_alternating if exact else solve_closest)(start, mask, gamma)
    return SSEC(weight.float(), mask, geometry(weight), solver)


def check_sse_c(
    num_classes: int,
    dim: int,
    *,
    beta: float,
    gamma: float,
    frame: Frame = "etf",
    solver: Solver = "alternating",
) -> None:
    """Raise a ConfigError if :func:`sse_c` cannot make a frame from these arguments."""
    check_choice("frame", frame, get_args(Frame))
    check_choice("solver", solver, get_args(Solver))
    if num_classes < 2:
        raise ConfigError("num_classes", num_classes, "must be at least 2", "A single class has no angles.")
    if not 0 <= beta < 1:
        raise ConfigError("beta", beta, "must lie in [0, 1)", "The paper uses 0.6; 0 gives the dense ETF.")
    check_positive("gamma", gamma, "0.1 suits 500 rounds, 1 suits short runs.")
    if dim < num_classes - 1 and frame == "etf":
        problem = (
            f"is too small for {num_classes} equiangular classes, which need at least {num_classes - 1} dimensions"
        )
        raise ConfigError("dim", dim, problem, "Increase it, or choose frame='closest'.")
    if num_classes * dim - _num_zeros(num_classes, dim, beta) < _min_kept(dim) * num_classes:
        problem = f"leaves fewer than {MIN_KEPT} of {dim} entries to a class"
        raise ConfigError("beta", beta, problem, "Choose a smaller value.")


def simplex_etf(num_classes: int, dim: int, generator: torch.Generator) -> Tensor:
    """A randomly rotated simplex ETF (eq. 2), float64 [C, d]: unit rows, pairwise cosine -1/(C-1).

    Raises:
        ConfigError: If d < C-1.
    """
    check_sse_c(num_classes, dim, beta=0, gamma=1)
    rotation = torch.linalg.qr(torch.randn(dim, num_classes - 1, generator=generator, dtype=torch.float64))[0]
    centred = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    basis = torch.linalg.eigh(centred)[1][:, 1:]  # orthonormal basis of the space orthogonal to the ones vector
    frame: Tensor = math.sqrt(num_classes / (num_classes - 1)) * basis @ rotation.T
    return frame


def sparse_mask(num_classes: int, dim: int, beta: float, generator: torch.Generator, tries: int = 1000) -> Tensor:
    """Boolean [C, d] with exactly ⌊βdC⌋ entries False, drawn over the whole matrix; True entries are kept.

    Raises:
        ConfigError: If β is outside [0, 1), or none of ``tries`` draws leaves every class two entries.
    """
    check_sse_c(num_classes, dim, beta=beta, gamma=1, frame="closest")
    zeros = _num_zeros(num_classes, dim, beta)
    for _ in range(tries):
        mask = torch.ones(num_classes * dim, dtype=torch.bool)
        mask[torch.randperm(len(mask), generator=generator)[:zeros]] = False
        if bool((mask.view(num_classes, dim).sum(1) >= _min_kept(dim)).all()):
            return mask.view(num_classes, dim)
    problem = f"left a class fewer than {MIN_KEPT} entries in {tries} draws"
    raise ConfigError("beta", beta, problem, "Choose a smaller value.")


def geometry(weight: Tensor) -> Geometry:
    """Norm and angle statistics of a frame [C, d] over all pairs of classes."""
    weight = weight.detach().double()
    norms, cosines = weight.norm(dim=1), _cosines(weight)
    pairs = cosines[~torch.eye(len(weight), dtype=torch.bool)]
    angles = torch.rad2deg(torch.arccos(pairs.clamp(-1, 1)))
    return Geometry(
        norm_mean=float(norms.mean()),
        norm_var=float(norms.var(correction=0)),
        angle_mean=float(angles.mean()),
        angle_var=float(angles.var(correction=0)),
        max_cos_error=float((pairs + 1 / (len(weight) - 1)).abs().max()),
    )


def sse_loss(weight: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Equal-norm plus maximal-angle loss (eq. 3-5): Σ_i (‖w_i‖-γ)² - (1/C) Σ_i arccos max_{j≠i} cos(w_i, w_j)."""
    weight = weight * mask
    cosines = _cosines(weight).fill_diagonal_(-1.0)
    angles = torch.arccos(cosines.max(dim=1).values.clamp(-0.99999, 0.99999))
    loss: Tensor = (weight.norm(dim=1) - gamma).square().sum() - angles.mean()
    return loss


def solve_adam(
    start: Tensor, mask: Tensor, gamma: float, steps: int = 10_000, lr: float = 1e-4, trace_every: int | None = 100
) -> tuple[Tensor, list[float]]:
    """The paper's solver (appendix A.4, with the released code's Adam): float32 [C, d], and the trace of its loss.

    Args:
        start: Initial frame [C, d].
        mask: Boolean [C, d], True for kept entries.
        gamma: Target row norm γ.
        steps: Number of Adam steps.
        lr: Adam's learning rate.
        trace_every: Steps between two values of the trace, which starts before the first step; None records none.
    """
    weight = (start * mask).float().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=lr)
    trace = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = sse_loss(weight, mask, gamma)
        if trace_every and step % trace_every == 0:
            trace.append(loss.item())
        torch.autograd.backward(loss)
        optimizer.step()
    return weight.detach() * mask, trace


def solve_alternating(
    start: Tensor, mask: Tensor, gamma: float, max_iterations: int = 1000, tolerance: float = 1e-6
) -> Tensor:
    """Alternate between the nearest simplex ETF and the nearest masked unit-norm frame: float64 [C, d], row norm γ.

    The nearest ETF of W is √(C/(C-1)) times the polar factor of W centred over the classes. Stops when every pairwise
    cosine is within ``tolerance`` of -1/(C-1), or after ``max_iterations`` if the mask admits no ETF.
    """
    weight = functional.normalize(start.double() * mask)
    for _ in range(max_iterations):
        cosines = weight @ weight.T
        if (cosines + 1 / (len(weight) - 1)).fill_diagonal_(0).abs().max() < tolerance:
            break
        weight = functional.normalize(_nearest_etf(weight, cosines) * mask)
    return gamma * weight


def closest_frame(num_classes: int, dim: int, generator: torch.Generator) -> Tensor:
    """A frame with the largest minimum angle found, for d < C-1: float64 [C, d], unit rows.

    Up to C = 2d the optimum has a minimum angle of 90° (Rankin's bound); the result is within a fraction of a degree.
    """
    start = functional.normalize(torch.randn(num_classes, dim, generator=generator, dtype=torch.float64))
    return solve_closest(start, torch.ones(num_classes, dim, dtype=torch.bool), gamma=1)


def solve_closest(start: Tensor, mask: Tensor, gamma: float, steps: int = 1000, lr: float = 0.02) -> Tensor:
    """Maximise the smallest angle of a masked frame: float64 [C, d], row norm γ.

    Adam minimises a smooth maximum of the pairwise cosines, log Σ_{i≠j} exp(s·cos_ij) / s. Its sharpness s grows from
    5 to 500 while the learning rate falls to zero; a step costs O(C²d).
    """
    weight = (start * mask).float().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=lr)
    diagonal = torch.zeros(len(start), len(start)).fill_diagonal_(-math.inf)
    for step in range(steps):
        sharpness = 5.0 * 100.0 ** (step / steps)
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        cosines = _cosines(weight * mask) + diagonal
        torch.autograd.backward(torch.logsumexp(sharpness * cosines.flatten(), 0) / sharpness)
        optimizer.step()
    return gamma * functional.normalize(weight.detach().double() * mask)


def _nearest_etf(weight: Tensor, products: Tensor) -> Tensor:
    """√(C/(C-1)) times the polar factor (M Mᵀ)^(-1/2) M of the centred M, from W Wᵀ: no SVD of C x d."""
    num_classes = len(weight)
    mean = products.mean(0)
    values, vectors = torch.linalg.eigh(products - mean - mean[:, None] + mean.mean())
    basis = vectors[:, 1:]  # without the ones vector, whose eigenvalue is zero after centring
    root = basis / values[1:].clamp(min=1e-30).sqrt() @ basis.T  # rows sum to zero, so the product centres W
    nearest: Tensor = math.sqrt(num_classes / (num_classes - 1)) * root @ weight
    return nearest


def _cosines(weight: Tensor) -> Tensor:
    unit = functional.normalize(weight)
    return unit @ unit.T


def _num_zeros(num_classes: int, dim: int, beta: float) -> int:
    """⌊βdC⌋; a product that is a rounding error below a whole number counts as that number (0.29·100 is 29)."""
    return math.floor(beta * (dim * num_classes) * (1 + 1e-12))


def _min_kept(dim: int) -> int:
    return min(MIN_KEPT, dim)
