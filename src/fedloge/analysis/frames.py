"""Heads as frames: angles and norms of their rows (FedLoGe, Fig. 7 and Table 6), and norms against class sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.collapse.lab.norms import compare
from fedloge.collapse.lab.theory import norm_exponent
from fedloge.collapse.metrics import moments
from fedloge.etf import geometry


def cosines(weight: Tensor) -> Tensor:
    """Cosine of every two rows of W [C, d], [C, C]."""
    unit = functional.normalize(weight)
    return unit @ unit.T


def frame(weight: Tensor) -> dict[str, float]:
    """Norms and angles of a head's rows.

    Args:
        weight: W [C, d].

    Returns:
        ``norm_mean``, ``norm_var``; ``angle_mean`` (degrees), ``angle_var`` (square degrees), ``cos_mean``,
        ``cos_std``, ``cos_max`` over all pairs i ≠ j. Variances are those of a population.
    """
    pairs = cosines(weight)[~torch.eye(len(weight), dtype=torch.bool)]
    known = asdict(geometry(weight))
    return {
        **{name: known[name] for name in ("norm_mean", "norm_var", "angle_mean", "angle_var")},
        "cos_mean": float(pairs.mean()),
        "cos_std": float(pairs.std(correction=0)),
        "cos_max": float(pairs.max()),
    }


def equiangular(num_classes: int) -> dict[str, float]:
    """The angle (degrees) and cosine of every two rows of a simplex ETF: arccos(-1/(C-1))."""
    cosine = -1 / (num_classes - 1)
    return {"angle": math.degrees(math.acos(cosine)), "cos": cosine}


def client_frames(weights: Iterable[Tensor]) -> tuple[dict[str, float], Tensor]:
    """:func:`frame` and :func:`cosines`, both averaged over the heads of clients."""
    rows, total = [], torch.tensor(0.0)
    for weight in weights:
        rows.append(frame(weight))
        total = total + cosines(weight)
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}, total / len(rows)


def norm_rows(counts: Tensor, weight: Tensor) -> list[dict[str, Any]]:
    """Class, its images n, and the norm of its row of W [C, d], for the classes with n > 0."""
    norms = weight.norm(dim=1).tolist()
    return [{"class": c, "n": n, "norm": norms[c]} for c, n in enumerate(counts.tolist()) if n > 0]


def cardinality(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Exponent of norm ∝ n^e by least squares, Spearman(norm, n), and the closed form's e = M/(2(M+1)) for M = 1.

    Exponent and correlation are nan for classes that all have as many images, or fewer than two classes.
    """
    if len({row["n"] for row in rows}) < 2:
        return {"exponent": math.nan, "spearman": math.nan, "theory": norm_exponent(1)}
    return compare(list(map(dict, rows)))


def client_cardinality(clients: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """:func:`cardinality` of every client over the classes that it has: mean and deviation over the clients."""
    found = [cardinality(rows) for rows in clients]
    result: dict[str, float] = {"theory": norm_exponent(1)}
    for name in ("exponent", "spearman"):
        values = torch.tensor([row[name] for row in found], dtype=torch.float64)
        known = moments(values[values.isfinite()])
        result |= {f"{name}_mean": known.mean, f"{name}_std": math.sqrt(known.variance), "clients": known.count}
    return result
