import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from fedloge.evaluation.probabilities import probability_scores


def test_areas_are_those_of_scikit_learn():
    """Class 3 has no test image: it is left out of the means."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(60, 4, generator=generator).softmax(1)
    labels = torch.arange(60) % 3
    found = probability_scores(probabilities, labels)
    truth, scores = np.eye(3)[labels.numpy()], probabilities[:, :3].numpy()
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(truth[:, c], scores[:, c]) for c in range(3)]))
    assert found["auprc"] == pytest.approx(
        np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in range(3)]), abs=1e-5
    )


def test_calibration_and_brier_score_by_hand():
    """Confidences .9, .9 and .6, of which one .9 is wrong: bins have |.5 - .9| of two and |1 - .6| of one image.

    The squared errors are 2 · .1², 2 · .9² and 2 · .4².
    """
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    found = probability_scores(probabilities, torch.tensor([0, 1, 1]))
    assert found["ece"] == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)
    assert found["brier"] == pytest.approx((0.02 + 1.62 + 0.32) / 3, abs=1e-6)


def test_one_class_has_no_area():
    found = probability_scores(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 0]))
    assert math.isnan(found["auroc"])
    assert math.isnan(found["auprc"])
    assert found["ece"] == pytest.approx(0.15, abs=1e-6)
