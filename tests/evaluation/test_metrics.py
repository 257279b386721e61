import math

import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from fedloge.evaluation import metrics

LABELS, PREDICTIONS = torch.randint(0, 7, (300,)), torch.randint(0, 7, (300,))
MATRIX = metrics.confusion(PREDICTIONS, LABELS, 7)


def test_against_torchmetrics():
    assert torch.equal(MATRIX, multiclass_confusion_matrix(PREDICTIONS, LABELS, 7))
    assert metrics.accuracy(MATRIX) == pytest.approx(
        multiclass_accuracy(PREDICTIONS, LABELS, 7, average="micro").item()
    )
    torch.testing.assert_close(
        metrics.per_class_accuracy(MATRIX).float(), multiclass_accuracy(PREDICTIONS, LABELS, 7, average=None)
    )


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_f1_against_scikit_learn_over_the_classes_that_are_there(average):
    labels = LABELS.clamp(max=4)
    expected = f1_score(labels, PREDICTIONS, labels=range(5), average=average)
    assert metrics.f1(metrics.confusion(PREDICTIONS, labels, 7), average) == pytest.approx(expected)


def test_absent_classes_are_left_out_not_zero():
    matrix = torch.tensor([[3, 1], [0, 0]])
    assert metrics.accuracy(matrix) == 0.75
    assert math.isnan(metrics.per_class_accuracy(matrix)[1])
    assert math.isnan(metrics.group_accuracy(matrix, torch.tensor([False, True])))
    assert metrics.f1(matrix, "macro") == pytest.approx(6 / 7)
