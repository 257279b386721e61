"""Scores of class probabilities, one class against the rest. Classes absent from a test set are left out."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_calibration_error,
)

BINS = 15
"""Bins of confidence of the expected calibration error."""


def probability_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of class probabilities.

    Args:
        probabilities: Class probabilities, float [n, C], with n at least 1.
        labels: True classes, int64 [n].

    Returns:
        ``auroc`` and ``auprc``, the means over classes of the areas under the ROC curve and under the precision-recall
        curve (nan if the test set has images of one class only); ``ece``, the expected calibration error with 15 bins
        of confidence; ``brier``, the mean of Σ_c (p_c - y_c)² (Brier, 1950), between 0 and 2.
    """
    present = labels.bincount().nonzero().flatten()
    own = torch.searchsorted(present, labels)
    auroc = auprc = torch.tensor(float("nan"))
    if len(present) > 1:
        chosen, several = probabilities[:, present], len(present)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without images, of which there are none
            auroc = multiclass_auroc(chosen, own, several, validate_args=False)
            auprc = multiclass_average_precision(chosen, own, several, validate_args=False)
    classes = probabilities.shape[1]
    ece = multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, validate_args=False)
    true = torch.nn.functional.one_hot(labels, classes)
    brier = (probabilities - true).square().sum(1).mean()
    scores = {"auroc": auroc, "auprc": auprc, "ece": ece, "brier": brier}
    return {name: float(value) for name, value in scores.items()}
