"""Closed-form geometry of unconstrained features under M linear layers.

Objective of the squared error: (1/2N)‖W_M…W_1 H - Y‖² + Σ_l (λ_l/2)‖W_l‖² + (λ_H/2)‖H‖², with one-hot Y [K, N].
Of cross entropy: its mean over the N samples plus the same penalties. ``nn.MSELoss`` averages over N·K: multiply every
λ by K to get this objective; ``weight_decay=λ`` of SGD is (λ/2)‖·‖², the decoupled decay of AdamW is not.

Sources: Dang et al. 2023 (general orthogonal frame); Thrampoulidis et al. 2022 (SELI); Garrod & Keating 2024 (where the
simplex ETF is not the optimum of cross entropy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloge.checks import check_choice, check_least, check_positive
from fedloge.errors import ConfigError

Branch = Literal["global", "metastable"]


@dataclass(frozen=True)
class Frame:
    """An optimum of the squared error: K class directions, each with its own strength.

    Args:
        counts: n_k, float64 [K].
        lambdas: λ_1 … λ_M of the layers.
        lambda_h: λ_H.
        x: Strength x_k of each direction, float64 [K]; 0 is collapse.
        directions: V [K, K], orthonormal columns in the space of classes: class k itself without a bias, the space of
            centred vectors (whose last strength is 0) with one.
        bias: Bias of every class, float.
    """

    counts: Tensor
    lambdas: tuple[float, ...]
    lambda_h: float
    x: Tensor
    directions: Tensor
    bias: float = 0.0

    @property
    def layers(self) -> int:
        """M."""
        return len(self.lambdas)

    @property
    def a(self) -> float:
        """a = Nλ_H."""
        return float(self.counts.sum()) * self.lambda_h

    @property
    def b(self) -> float:
        """b = M N (a Π λ_l)^{1/M}."""
        return _b(self.counts, self.lambdas, self.lambda_h)

    @property
    def p(self) -> Tensor:
        """p_k = a x_k^M, the squared singular values of W = W_M…W_1, float64 [K]."""
        return self.a * self.x**self.layers

    @property
    def collapsed(self) -> Tensor:
        """Which directions are exactly zero, bool [K]."""
        return self.x == 0

    @property
    def weight_gram(self) -> Tensor:
        """WWᵀ, float64 [K, K]; diagonal without a bias."""
        return self._spread(self.p)

    @property
    def feature_gram(self) -> Tensor:
        """HᵀH of the class means, float64 [K, K]."""
        return self._spread(self.p / (self.p + self.a) ** 2)

    @property
    def logits(self) -> Tensor:
        """WH of the class means, without the bias, float64 [K, K]."""
        return self._spread(self.p / (self.p + self.a))

    @property
    def weight_norms(self) -> Tensor:
        """‖w_k‖, float64 [K]."""
        return self.weight_gram.diagonal().sqrt()

    @property
    def feature_norms(self) -> Tensor:
        """‖μ_k‖, float64 [K]."""
        return self.feature_gram.diagonal().sqrt()

    @property
    def singular_values(self) -> Tensor:
        """Singular values of each layer, float64 [M, K]; σ_k(W_l)² = (p_k Πλ)^{1/M}/λ_l."""
        shared = (self.p * math.prod(self.lambdas)) ** (1 / self.layers)
        return (shared / torch.tensor(self.lambdas, dtype=torch.float64).unsqueeze(1)).sqrt()

    @property
    def loss(self) -> float:
        """The objective at this frame: (1/2N) Σ_k [n_k/(1+x_k^M) + b x_k] over its directions."""
        each = self.counts / (1 + self.x**self.layers) + self.b * self.x
        active = each[:-1] if self.bias else each  # a bias fits the mean of the labels, which costs nothing
        return float(active.sum() / (2 * self.counts.sum()))

    def _spread(self, values: Tensor) -> Tensor:
        return self.directions * values @ self.directions.T


def orthogonal_frame(
    counts: Sequence[int],
    layers: int = 1,
    lambda_w: float | Sequence[float] = 5e-4,
    lambda_h: float = 5e-4,
    width: int | None = None,
    branch: Branch = "global",
) -> Frame:
    """General orthogonal frame: the optimum of the bias-free squared error, balanced or not.

    Every class decouples: x_k ≥ 0 minimises 1/(1+x^M) + (b/n_k)x. One layer: x_k = max(0, √(n_k/b) - 1), so that a
    class collapses iff n_k ≤ N²λ_Wλ_H. More layers: a class collapses iff b/n_k ≥ (M-1)^{(M-1)/M}/M (at a tie this
    takes 0), otherwise x_k is the largest root of M x^{M-1}/(1+x^M)² = b/n_k.

    Args:
        counts: n_k, samples of each class.
        layers: M.
        lambda_w: λ of all layers, or of each.
        lambda_h: λ_H.
        width: Narrowest width R; with R < K only the R largest classes keep a direction. Of classes that tie at the cut
            the first ones are kept; the optimum is then not unique.
        branch: ``metastable`` takes the non-zero root wherever there is one, even where 0 has the lower loss: a local
            minimum in which training may stay.

    Raises:
        ConfigError: For fewer than two classes, an empty class, M or R below 1, or a λ that is not positive.
    """
    sizes, lambdas = _check(counts, layers, lambda_w, lambda_h)
    check_choice("branch", branch, get_args(Branch))
    ratio = _b(sizes, lambdas, lambda_h) / sizes
    x = _strength(ratio, layers, branch)
    if width is not None:
        check_least("width", width, 1)
        x[sizes.argsort(descending=True, stable=True)[width:]] = 0
    return Frame(sizes, lambdas, lambda_h, x, torch.eye(len(sizes), dtype=torch.float64))


def simplex_frame(
    num_classes: int,
    per_class: int,
    layers: int = 1,
    lambda_w: float | Sequence[float] = 5e-4,
    lambda_h: float = 5e-4,
) -> Frame:
    """The optimum of the squared error with a free last-layer bias on balanced data: a simplex ETF with bias 1/K.

    The bias fits the mean of the labels; what is left of them has K-1 equal directions, each worth n, and the argument
    of :func:`orthogonal_frame` holds for each.

    Raises:
        ConfigError: As :func:`orthogonal_frame`.
    """
    frame = orthogonal_frame([per_class] * num_classes, layers, lambda_w, lambda_h)
    centring = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    directions = torch.linalg.svd(centring)[0]
    x = frame.x.clone()
    x[-1] = 0
    return Frame(frame.counts, frame.lambdas, lambda_h, x, directions, bias=1 / num_classes)


def norm_exponent(layers: int) -> float:
    """With weak regularisation ‖w_k‖ ∝ n_k^e and ‖μ_k‖ ∝ n_k^{-e}, e = M/(2(M+1)): ¼, ⅓, …, towards ½."""
    check_least("layers", layers, 1)
    return layers / (2 * (layers + 1))


def collapse_ratio(layers: int) -> float:
    """b/n_k from which class k collapses to zero: (M-1)^{(M-1)/M}/M, and 1 for one layer."""
    return float((layers - 1) ** ((layers - 1) / layers) / layers)


def metastable_ratio(layers: int) -> float:
    """b/n_k up to which the non-zero root exists: the maximum of M x^{M-1}/(1+x^M)² over x."""
    peak = _peak(layers)
    return layers * peak ** (layers - 1) / (1 + peak**layers) ** 2


@dataclass(frozen=True)
class CrossEntropyETF:
    """The best simplex ETF for cross entropy on balanced data.

    Args:
        loss: Cross entropy and penalties.
        weight_gram: WWᵀ, float64 [K, K].
        feature_gram: HᵀH of the class means, float64 [K, K].
        logits: WH of the class means, float64 [K, K].
    """

    loss: float
    weight_gram: Tensor
    feature_gram: Tensor
    logits: Tensor


def cross_entropy_etf(
    num_classes: int, per_class: int, layers: int = 1, lambda_w: float | Sequence[float] = 5e-4, lambda_h: float = 5e-4
) -> CrossEntropyETF:
    """Cross entropy through a simplex ETF, at the margin α that is best.

    min over α of log(1+(K-1)e^{-α}) + ((M+1)/2)(Πλ_l·λ_H)^{1/(M+1)} (K-1)(α√n)^{2/(M+1)}. It is the optimum for one
    layer; for K ≥ 4, M ≥ 3 or K ≥ 6, M = 2 some other geometry has a lower loss.

    Raises:
        ConfigError: As :func:`orthogonal_frame`.
    """
    _, lambdas = _check([per_class] * num_classes, layers, lambda_w, lambda_h)
    power, product = 1 / (layers + 1), math.prod(lambdas)
    penalty = (layers + 1) / 2 * (product * lambda_h) ** power * (num_classes - 1)
    low, high = 0.0, 100.0
    for _ in range(12):  # a grid that closes in: α = 0 is a local minimum of its own for M ≥ 2
        grid = torch.linspace(low, high, 1001, dtype=torch.float64)
        losses = torch.log1p((num_classes - 1) * torch.exp(-grid)) + penalty * (grid**2 * per_class) ** power
        best = int(losses.argmin())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 1000)])
    alpha = float(grid[best])
    balance = (alpha**2 * product * per_class * lambda_h) ** power  # λ_l σ(W_l)² = n λ_H σ(H)²
    centring = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    return CrossEntropyETF(
        loss=float(losses[best]),
        weight_gram=balance**layers / product * centring,
        feature_gram=balance / (per_class * lambda_h) * centring,
        logits=alpha * centring,
    )


def seli(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """SELI: the geometry that bias-free cross entropy tends to as the ridge vanishes, for one layer and d ≥ K-1.

    From (I - 11ᵀ/K)·diag(√n) = VΛUᵀ. It is approached slowly, like 1/log(1/λ).

    Args:
        counts: n_k.

    Returns:
        WWᵀ and the Gram matrix of the class means, float64 [K, K], each up to a factor.

    Raises:
        ConfigError: For fewer than two classes or an empty one.
    """
    sizes = _check(counts, 1, 1.0, 1.0)[0]
    centring = torch.eye(len(sizes), dtype=torch.float64) - 1 / len(sizes)
    v, s, ut = torch.linalg.svd(centring * sizes.sqrt())
    half = ut.T / sizes.sqrt().unsqueeze(1)
    return v * s @ v.T, half * s @ half.T


def _check(
    counts: Sequence[int], layers: int, lambda_w: float | Sequence[float], lambda_h: float
) -> tuple[Tensor, tuple[float, ...]]:
    """n as float64 [K] and the λ of each layer."""
    if len(counts) < 2:
        raise ConfigError("counts", list(counts), "has fewer than two classes", "Collapse is between classes.")
    if min(counts) < 1:
        raise ConfigError("counts", list(counts), "has an empty class", "Leave it out.")
    check_least("layers", layers, 1)
    lambdas = (float(lambda_w),) * layers if isinstance(lambda_w, int | float) else tuple(lambda_w)
    if len(lambdas) != layers:
        raise ConfigError(
            "lambda_w", list(lambdas), f"does not fit {layers} layers", "Give one number, or one a layer."
        )
    for name, value in (*(("lambda_w", value) for value in lambdas), ("lambda_h", lambda_h)):
        check_positive(name, value, "The theory needs a ridge on every layer and on the features.")
    return torch.tensor(counts, dtype=torch.float64), lambdas


def _b(counts: Tensor, lambdas: Sequence[float], lambda_h: float) -> float:
    layers, samples = len(lambdas), float(counts.sum())
    return float(layers * samples * (samples * lambda_h * math.prod(lambdas)) ** (1 / layers))


def _strength(ratio: Tensor, layers: int, branch: Branch) -> Tensor:
    """x_k from b/n_k, float64 [K]."""
    if layers == 1:
        return (ratio.rsqrt() - 1).clamp(min=0)
    limit = collapse_ratio(layers) if branch == "global" else metastable_ratio(layers)
    low = torch.full_like(ratio, _peak(layers))
    high = torch.maximum(low, (layers / ratio) ** (1 / (layers + 1)))
    for _ in range(100):
        middle = (low + high) / 2
        above = layers * middle ** (layers - 1) / (1 + middle**layers) ** 2 > ratio
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(ratio < limit, low, 0.0)


def _peak(layers: int) -> float:
    """Where M x^{M-1}/(1+x^M)² is largest."""
    return float(((layers - 1) / (layers + 1)) ** (1 / layers))
