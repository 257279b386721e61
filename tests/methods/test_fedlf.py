"""FedLF by the properties that define it."""

import math

import pytest
import torch

from fedloge.methods import FedLF
from fedloge.methods.fedlf import correlation
from harness import build, initial, run_round


def test_scaled_logits_on_paper():
    """Counts 4, 2, 0, α = ½: factors 1, ¾, ½. Logits (0, 4, 0), y = 1: log(1 + 2 e^-3)."""
    method = build(FedLF, centre=0.0, decorrelation=0.0)
    method.own_counts.copy_(torch.tensor([4.0, 2.0, 0.0]))
    method.head.forward = lambda h: torch.tensor([[0.0, 4.0, 0.0]])
    losses = method.local_losses((torch.randn(1, 1, 4, 4), torch.tensor([1])))
    assert losses["scaled"].item() == pytest.approx(math.log(1 + 2 * math.exp(-3)))


def test_centres_come_after_the_warm_up(data):
    method = build(FedLF, warm_up=2)
    state, _ = run_round(method, data, initial(method, 3))
    assert not state.shared.fixed["known"].any()
    state, results = run_round(method, data, state)
    sums = sum(result.update.report["sums"] for result in results)
    expected = sums / torch.tensor(data.class_counts)[:, None]
    torch.testing.assert_close(state.shared.fixed["centres"], expected)


def test_correlation_on_paper():
    """Two equal features: all four correlations are 1, so 4/4. Two independent ones: only the diagonal, so 2/4."""
    same = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    apart = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert correlation(same).item() == pytest.approx(1, rel=1e-4)
    assert correlation(apart).item() == pytest.approx(0.5, rel=1e-4)
    assert correlation(torch.ones(3, 2)).item() == 0
