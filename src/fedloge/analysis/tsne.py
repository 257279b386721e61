"""Class means in the plane by t-SNE (FedLoGe, Fig. 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SEED = 42
LEARNING_RATE = 200
PERPLEXITY = 30.0


def tsne_of_means(means: Tensor) -> dict[str, Any]:
    """Standardised class means by t-SNE, and how far each is from its nearest neighbour.

    Perplexity is 30, or (C-1)/3 where that is less: it must be below C. Positions on a t-SNE map have no scale, so
    distances are also given before the map, between standardised means and divided by √d.

    Args:
        means: [C, d] without nan, at least two.

    Returns:
        ``points``, C pairs; ``nn_min`` and ``nn_median`` of the map, ``nn_min_features`` and ``nn_median_features``
        before it; ``perplexity``.
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    standard = StandardScaler().fit_transform(means.numpy())
    perplexity = min(PERPLEXITY, (len(means) - 1) / 3)
    points = TSNE(2, learning_rate=LEARNING_RATE, perplexity=perplexity, random_state=SEED).fit_transform(standard)
    on_map, before = nearest(points), nearest(standard / standard.shape[1] ** 0.5)
    return {
        "points": points.tolist(),
        "perplexity": perplexity,
        "nn_min": float(on_map.min()),
        "nn_median": float(np.median(on_map)),
        "nn_min_features": float(before.min()),
        "nn_median_features": float(np.median(before)),
    }


def nearest(points: NDArray[Any]) -> NDArray[np.float64]:
    """Distance of every point [n, d] to its nearest neighbour, [n]."""
    points = points.astype(np.float64)
    distances = np.array([np.linalg.norm(points - point, axis=1) for point in points])
    np.fill_diagonal(distances, np.inf)
    result: NDArray[np.float64] = distances.min(1)
    return result
