import math

import pytest
import torch

from fedloge.evaluation.details import Details, spread


def test_mean_worst_and_range_over_clients():
    """Of errors the largest is the worst; a client without a value is left out."""
    first = {"acc": 0.5, "auroc": math.nan, "ece": 0.1, "acc_low": 0.4, "classes_left_out": 1}
    second = {"acc": 0.9, "auroc": 0.8, "ece": 0.3, "acc_low": 0.8, "classes_left_out": 0}
    assert spread([first, second]) == pytest.approx(
        {
            **{"acc_worst": 0.5, "acc_range": 0.4},
            **{"auroc": 0.8, "auroc_worst": 0.8, "auroc_range": 0.0},
            **{"ece": 0.2, "ece_worst": 0.3, "ece_range": 0.2},
            "classes_left_out": 0.5,
        }
    )


def test_models_are_scored_one_after_the_other():
    """A generic model that is always right, and one client of two with half of its images right."""
    labels = torch.tensor([0, 1, 0, 1])
    right, half = 9.0 * torch.eye(3)[labels], 9.0 * torch.eye(3)[torch.tensor([0, 1, 1, 0])]
    details = Details(3)
    details.add_generic(right, labels, None)
    details.add_client(4, half, labels, None)
    details.add_client(7, right, labels, None)
    found = details.result([{"acc": 0.5}, {"acc": 1.0}])
    assert (found["global"]["acc_low"], found["global"]["auroc"]) == (1.0, 1.0)
    assert found["global"]["classes_left_out"] == 1
    assert (found["personal"]["acc_worst"], found["personal"]["acc_range"]) == (0.5, 0.5)
    assert 0.5 <= found["personal"]["acc_mean_low"] < 0.75 < found["personal"]["acc_mean_high"] <= 1.0
    assert (details.clients[7]["acc_low"], details.clients[7]["acc_high"]) == (1.0, 1.0)
    assert details.clients[4]["brier"] == pytest.approx(1.0, abs=0.01)
