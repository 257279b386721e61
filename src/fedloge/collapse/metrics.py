"""NC1 to NC4 and their generalisations from class means, variances and a classifier.

Sources: Papyan, Han & Donoho 2020 (NC1 to NC4); Galanti et al. 2022 (CDNV); Liu et al. 2023 (GNC2); Dang et al. 2023
(duality by WAᵀ); Wu & Papyan 2024 (UNC3, CDNV with the fourth power of distances). Standard deviations are those of a
population. Work on pairs of classes goes over tiles; nothing of size C×C is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.collapse.streaming import ClassMeans, kept_classifier

TILE = 1024
"""Side of a tile of the C×C pairs."""

COINCIDENT = 1e-8
"""Distances below this share of the largest ‖A_c‖ count as zero."""


class Moments:
    """Number, mean and population variance of values that come in parts, without cancellation (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, math.nan, 0.0

    def add(self, values: Tensor) -> None:
        """Add a part, possibly empty."""
        if not (count := values.numel()):
            return
        mean = float(values.mean())
        squares = float((values - mean).square().sum())
        if self.count:
            total, delta = self.count + count, mean - self.mean
            self.mean += delta * count / total
            self._squares += squares + delta**2 * self.count * count / total
        else:
            self.mean, self._squares = mean, squares
        self.count += count

    @property
    def variance(self) -> float:
        """Population variance; nan without values."""
        return self._squares / self.count if self.count else math.nan

    @property
    def cv(self) -> float:
        """Standard deviation by |mean|; nan without values, or where the mean is zero."""
        return math.sqrt(self.variance) / abs(self.mean) if self.mean else math.nan


def moments(values: Tensor) -> Moments:
    """The moments of one tensor."""
    result = Moments()
    result.add(values)
    return result


def tiles(num_classes: int, size: int = TILE) -> Iterator[tuple[slice, slice]]:
    """Upper-triangular tiles of the C×C pairs, those on the diagonal included."""
    starts = range(0, num_classes, size)
    for i in starts:
        for j in starts[i // size :]:
            yield slice(i, min(i + size, num_classes)), slice(j, min(j + size, num_classes))


def pairs(tile: Tensor, rows: slice, columns: slice) -> Tensor:
    """The entries with i < j of a tile, flat."""
    if rows != columns:
        return tile.flatten()
    return tile[torch.ones_like(tile, dtype=torch.bool).triu(1)]


def distances(points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of ‖p_i - p_j‖, nan where not i < j; from differences, not from products that cancel."""
    for rows, columns in tiles(len(points)):
        tile = torch.cdist(points[rows], points[columns], compute_mode="donot_use_mm_for_euclid_dist")
        if rows == columns:
            tile = tile.masked_fill(~torch.ones_like(tile, dtype=torch.bool).triu(1), torch.nan)
        yield rows, columns, tile


def cdnv(means: ClassMeans, variances: Tensor, power: int = 1) -> dict[str, float]:
    """Class-distance normalised variance V_ij = (σ_i² + σ_j²) / (2‖μ_i - μ_j‖^{2p}), averaged over pairs.

    p = 1 is Galanti's; p = 2 is what measurements of language models use, and depends on the scale of the features.

    Returns:
        ``cdnv``, the mean, and ``cdnv_log``, the mean of log V over the pairs with V > 0. Pairs of coincident means,
        where V is infinite, are left out of both; ``coincident_means`` is the number of classes in such pairs.
    """
    smallest, values, logarithms = tolerance(means), Moments(), Moments()
    shared = torch.zeros_like(variances, dtype=torch.bool)
    for rows, columns, tile in distances(means.centred):
        _mark(shared, rows, columns, tile <= smallest)
        spread = (variances[rows].unsqueeze(1) + variances[columns]) / 2
        value = (spread / tile.pow(2 * power))[tile > smallest]
        values.add(value)
        logarithms.add(value[value > 0].log())
    return {"cdnv": values.mean, "cdnv_log": logarithms.mean, "coincident_means": int(shared.sum())}


def nc2(means: ClassMeans) -> dict[str, float]:
    """NC2: equal norms, equal angles, and the distance to a simplex ETF beside the least there can be.

    Returns:
        ``equinorm``: standard deviation over mean of ‖A_c‖. ``equiangular``: standard deviation of the pairwise
        cosines; ``angle_error``: mean of |cos + 1/(C-1)|. Classes whose mean is the global mean have no direction and
        are left out of these two. ``etf_error``: ‖AAᵀ/‖AAᵀ‖ - E*‖ in [0, √2]; ``etf_floor``: see :func:`etf_floor`.
    """
    unit, ideal = directions(means), -1 / (means.num_classes - 1)
    cosines, errors = Moments(), Moments()
    for rows, columns in tiles(len(unit)):
        cosine = pairs(unit[rows] @ unit[columns].T, rows, columns)
        cosines.add(cosine)
        errors.add((cosine - ideal).abs())
    return {
        "equinorm": moments(means.centred.norm(dim=1)).cv,
        "equiangular": math.sqrt(cosines.variance),
        "angle_error": errors.mean,
        "etf_error": etf_distance(means.centred, means.centred),
        "etf_floor": etf_floor(means.num_classes, means.dim),
    }


def etf_distance(left: Tensor, right: Tensor) -> float:
    """‖X/‖X‖ - E*‖ for X = left·rightᵀ [C, C] and E* the Gram matrix of a simplex ETF, both of Frobenius norm 1.

    nan where X is zero.
    """
    num_classes = len(left)
    norm = math.sqrt(sum(float(block.square().sum()) for block, _ in _blocks(left, right)))
    if norm == 0:
        return math.nan
    edge, total = 1 / math.sqrt(num_classes - 1), 0.0
    for block, on_diagonal in _blocks(left, right):
        difference = block / norm + edge / num_classes
        if on_diagonal:
            difference.diagonal().sub_(edge)
        total += float(difference.square().sum())
    return math.sqrt(total)


def etf_floor(num_classes: int, dim: int) -> float:
    """The least ``etf_error`` there can be: √(2 - 2√(d/(C-1))) where C-1 > d, otherwise 0."""
    return math.sqrt(2 - 2 * math.sqrt(dim / (num_classes - 1))) if num_classes - 1 > dim else 0.0


def gnc2(means: ClassMeans) -> dict[str, float]:
    """GNC2, uniformity on the sphere for C > d: moments of t_ij = -log‖u_i - u_j‖, u_c = A_c/‖A_c‖.

    Returns:
        ``gnc2_mean``, ``gnc2_var``, ``gnc2_cv`` over the pairs of distinct directions; ``coincident_directions``, the
        number of classes that share theirs with another.
    """
    unit, logarithms = directions(means), Moments()
    shared = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    for rows, columns, tile in distances(unit):
        _mark(shared, rows, columns, tile <= COINCIDENT)
        logarithms.add(-tile[tile > COINCIDENT].log())
    return {
        "gnc2_mean": logarithms.mean,
        "gnc2_var": logarithms.variance,
        "gnc2_cv": logarithms.cv,
        "coincident_directions": int(shared.sum()),
    }


def gnc2_of_etf(num_classes: int) -> float:
    """Mean of t_ij on an exact simplex ETF, where its variance is 0: -½ log(2C/(C-1))."""
    return -math.log(2 * num_classes / (num_classes - 1)) / 2


def gnc2_of_random(dim: int) -> tuple[float, float]:
    """Mean and variance of t_ij for isotropic random directions, to first order in 1/d."""
    return -math.log(2) / 2 + 1 / (4 * dim), 1 / (4 * dim)


def nc3(means: ClassMeans, weight: Tensor) -> dict[str, float]:
    """NC3 and UNC3: the classifier W [C, d] (kept classes) against the centred class means A.

    Returns:
        ``self_duality``: ‖W/‖W‖ - A/‖A‖‖. ``etf_duality``: ‖WAᵀ/‖WAᵀ‖ - E*‖. ``nc3_cosine``: mean of cos(w_c, A_c);
        ``unc3_var`` and ``unc3_cv``: variance and variation of that cosine over the classes with a direction.
    """
    centred = means.centred
    cosines = functional.cosine_similarity(weight, centred, eps=0)
    cosine = moments(cosines[cosines.isfinite()])
    return {
        "self_duality": float((weight / weight.norm() - centred / centred.norm()).norm()),
        "etf_duality": etf_distance(weight, centred),
        "nc3_cosine": cosine.mean,
        "unc3_var": cosine.variance,
        "unc3_cv": cosine.cv,
    }


def counts(means: ClassMeans) -> dict[str, float]:
    """How many classes were measured, and how many were left out of what.

    Returns:
        ``classes`` kept and their ``samples``; ``empty_classes`` and ``rare_classes`` (fewer than ``min_count``
        samples), in no metric; ``singleton_classes``, kept without a spread of their own; ``zero_means``, classes
        without a direction.
    """
    return {
        "classes": means.num_classes,
        "samples": int(means.sizes.sum()),
        "empty_classes": int((means.counts == 0).sum()),
        "rare_classes": int(((means.counts > 0) & (means.counts < means.min_count)).sum()),
        "singleton_classes": int((means.sizes == 1).sum()),
        "zero_means": means.num_classes - len(directions(means)),
    }


def report(
    means: ClassMeans,
    spread: dict[str, Tensor],
    weight: Tensor | None = None,
    nc4: Tensor | None = None,
    cdnv_power: int = 1,
) -> dict[str, float]:
    """All metrics from the results of the passes; those of a classifier only where there is one.

    Args:
        means: Result of :class:`ClassMeanMetric`.
        spread: Result of :class:`SpreadMetric`.
        weight: W [all classes, d].
        nc4: Result of :class:`NearestMeanMetric`.
        cdnv_power: p of :func:`cdnv`.

    Returns:
        ``nc1`` and what :func:`cdnv`, :func:`nc2`, :func:`gnc2`, :func:`nc3` and :func:`counts` return; ``nc4``.
    """
    values = {"nc1": float(spread["nc1"]), **cdnv(means, spread["variances"].to(means.means.device), cdnv_power)}
    values |= nc2(means) | gnc2(means)
    if weight is not None:
        values |= nc3(means, kept_classifier(means, weight, None)[0])
    if nc4 is not None:
        values["nc4"] = float(nc4)
    return values | counts(means)


def directions(means: ClassMeans) -> Tensor:
    """Unit rows A_c/‖A_c‖ of the classes that have a direction, [at most C, d]."""
    norms = means.centred.norm(dim=1)
    return functional.normalize(means.centred[norms > tolerance(means)])


def tolerance(means: ClassMeans) -> float:
    """Largest distance that counts as zero."""
    return COINCIDENT * float(means.centred.norm(dim=1).max())


def _mark(shared: Tensor, rows: slice, columns: slice, near: Tensor) -> None:
    """Set in ``shared`` the classes of the pairs that are near."""
    shared[rows] |= near.any(1)
    shared[columns] |= near.any(0)


def _blocks(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """left·rightᵀ block by block, and whether the block is on the diagonal."""
    for rows, columns in tiles(len(left)):
        yield left[rows] @ right[columns].T, rows == columns
        if rows != columns:
            yield left[columns] @ right[rows].T, False
