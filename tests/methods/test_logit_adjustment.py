"""Logit adjustment by the properties that define it."""

import torch
from torch.nn import functional

from fedloge.methods import LogitAdjustment
from harness import prepared


def test_the_prior_is_that_of_all_clients(data):
    method = prepared(LogitAdjustment, data, tau=2.0)
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 2])
    method.eval()
    logits = method.head(method.backbone(images))
    expected = functional.cross_entropy(logits + 2 * torch.tensor(data.class_counts).log(), labels)
    torch.testing.assert_close(method.local_losses((images, labels))["adjusted"], expected)
    assert "class_counts" in method.shared_state().fixed


def test_posthoc_adjustment_moves_the_generic_model_alone(data):
    method = prepared(LogitAdjustment, data, mode="posthoc")
    h = torch.randn(5, 6)
    torch.testing.assert_close(method.logits(h, "personal"), method.head(h))
    expected = method.head(h) - torch.tensor(data.class_counts).log()
    torch.testing.assert_close(method.logits(h, "global"), expected)
