"""Fed-GraB by the properties that define it."""

import math

import pytest
import torch
from torch.nn import functional

from fedloge.methods import FedGraB
from harness import build, train


def test_the_first_batch_is_plain_binary_cross_entropy_and_fills_the_balance():
    """All logits 0: σ = ½. Two examples of class 0: Δ_0 = 2 · ½ / 2 = ½, Δ_1 = Δ_2 = -½."""
    method = build(FedGraB)
    for parameter in method.head.parameters():
        torch.nn.init.zeros_(parameter)
    losses = method.local_losses((torch.randn(2, 1, 4, 4), torch.tensor([0, 0])))
    assert losses["balanced"].item() == pytest.approx(3 * math.log(2))
    assert method.balance.tolist() == [0.5, -0.5, -0.5]


def test_the_controller_on_paper():
    """Δ = -2, errors before 0: u = 10 · 2 + 0.01 · 2 + 0.1 · 2 = 20.22; again: u += 0.01 · 2 + 0.1 · (2 - 4 + 0)."""
    method = build(FedGraB)
    method.balance.fill_(-2.0)
    for output in (20.22, 20.22 + 0.02 - 0.2):
        weights = method.positive_weights()
        expected = (10 / 9) / (1 / 9 + math.exp(-0.05 * output))
        torch.testing.assert_close(weights, torch.full((3,), expected))
    assert weights[0] > 1


def test_the_gradient_of_a_logit_is_weighted():
    method = build(FedGraB)
    method.balance.copy_(torch.tensor([-2.0, 0.0, 0.0]))
    weight = build_weight(method)
    logits = torch.zeros(1, 3, requires_grad=True)
    method.head.forward = lambda h: logits
    method.local_losses((torch.zeros(1, 1, 4, 4), torch.tensor([0])))["balanced"].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5 * weight, 0.5, 0.5]]))


def build_weight(method):
    twin = build(FedGraB)
    twin.balance.copy_(method.balance)
    return twin.positive_weights()[0].item()


def test_controllers_stay_home(data):
    state, results = train(build(FedGraB), data)
    assert not any({"balance", "errors", "output"} & result.update.tensors.keys() for result in results)
    assert all(own["balance"].any() for own in state.clients)
    assert functional.cosine_similarity(state.clients[0]["output"], state.clients[1]["output"], dim=0) < 1
