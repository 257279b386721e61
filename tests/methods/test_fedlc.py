"""FedLC by the properties that define it."""

import math

import pytest
import torch

from fedloge.methods import FedLC
from harness import build


def test_calibrated_logits_on_paper():
    """Counts 16, 1, 0 and equal logits: margins 16^-¼ = ½ and 1. For y = 1: -log(e^-1 / (e^-½ + e^-1)) = log(1 + e^½).

    The absent class takes no part, and gets no gradient.
    """
    method = build(FedLC)
    for parameter in method.head.parameters():
        torch.nn.init.zeros_(parameter)
    method.own_counts.copy_(torch.tensor([16.0, 1.0, 0.0]))
    losses = method.local_losses((torch.randn(2, 1, 4, 4), torch.tensor([1, 1])))
    assert losses["calibrated"].item() == pytest.approx(math.log(1 + math.exp(0.5)))
    losses["calibrated"].backward()
    assert method.head.bias.grad[2] == 0
    assert method.head.bias.grad[0] > 0
