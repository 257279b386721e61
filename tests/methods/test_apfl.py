"""APFL by the properties that define it."""

import pytest
import torch

from fedloge.methods import APFL, FedAvg
from harness import build, same, train
from scalars import Square, Weight


class ScalarAPFL(APFL, Square):
    """The mixture is pulled towards the image too."""

    def local_losses(self, batch):
        generic = Square.local_losses(self, batch)
        return {**generic, "personal": (self.mixed("backbone", batch[0]).mean() - batch[0].mean()).square() / 2}


def test_gradients_on_paper():
    """w = 2, v = 4, α = ¼, x = 8: the mixture is 2.5, its error -5.5.

    w: 2 - 8 = -6, and nothing from the mixture. v: ¼ · (-5.5). α: (4 - 2)(-5.5) = -11.
    """
    method = ScalarAPFL(Weight(), 2, alpha=0.25)
    with torch.no_grad():
        method.backbone.w.fill_(2.0)
        method.own_backbone.w.fill_(4.0)
    losses = method.local_losses((torch.full((1, 1, 1, 1), 8.0), torch.zeros(1)))
    sum(losses.values()).backward()
    assert method.backbone.w.grad.item() == -6
    assert method.own_backbone.w.grad.item() == -5.5 / 4
    assert method.alpha.grad.item() == -11


def test_the_generic_model_is_fedavgs(data):
    expected, found = (train(build(method), data)[0].shared.tensors for method in (FedAvg, APFL))
    assert same(expected, found)


def test_alpha_is_learnt_within_bounds_and_stays_home(data):
    state, results = train(build(APFL, lr=0.5), data)
    assert all(0 <= own["alpha"] <= 1 for own in state.clients)
    assert any(own["alpha"] != pytest.approx(0.5) for own in state.clients)
    assert not any("alpha" in result.update.tensors for result in results)


def test_at_zero_the_personal_model_is_the_generic_one():
    method = build(APFL, alpha=0.0, adaptive=False).eval()
    for parameter in method.own_head.parameters():
        torch.nn.init.ones_(parameter)
    h = torch.randn(3, 6)
    torch.testing.assert_close(method.logits(h, "personal"), method.logits(h, "global"))
