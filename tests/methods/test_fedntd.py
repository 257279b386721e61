"""FedNTD by the properties that define it."""

import math

import pytest
import torch

from fedloge.methods import FedAvg, FedNTD
from fedloge.methods.fedntd import not_true_divergence
from harness import build, same, train


def test_the_true_class_has_no_part():
    """Label 0; over classes 1 and 2 the teacher has (¼, ¾), the student (½, ½): ¼ ln ½ + ¾ ln 3/2, times T²."""
    labels = torch.tensor([0])
    for true in (0.0, 5.0):
        teacher = torch.tensor([[true, 0.0, math.log(3)]])
        student = torch.tensor([[-true, 1.0, 1.0]])
        expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
        assert not_true_divergence(teacher, student, labels, 1.0).item() == pytest.approx(expected)
        assert not_true_divergence(2 * teacher, student, labels, 2.0).item() == pytest.approx(4 * expected)


def test_at_the_start_there_is_nothing_to_distil(data):
    """The model is the received one at first, so the divergence is small; in longer training it changes the course."""
    method = build(FedNTD)
    _, results = train(method, data, rounds=1, epochs=1)
    assert all(result.update.metrics["distillation"] < 0.1 for result in results)
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert not same(expected, train(build(FedNTD, beta=10.0), data)[0].shared.tensors)
