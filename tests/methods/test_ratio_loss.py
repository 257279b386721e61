"""Ratio Loss by the properties that define it."""

import pytest
import torch
from torch.nn import functional

from fedloge.errors import ConfigError
from fedloge.methods import FedAvg, RatioLoss
from harness import build, initial, prepared, run_round, same


def test_weights_from_the_model_of_a_round_act_in_the_next(data):
    method = prepared(RatioLoss, data, refresh_every=2)
    state = initial(method, 3)
    ratios = method.probe(state)
    plain, _ = run_round(build(FedAvg), data, initial(build(FedAvg), 3))
    first, _ = run_round(method, data, state)
    assert same(plain.shared.tensors, first.shared.tensors)
    torch.testing.assert_close(first.shared.fixed["class_weights"], 1 + 0.1 * ratios)
    plain, _ = run_round(build(FedAvg), data, plain)
    second, _ = run_round(method, data, first)
    assert not same(plain.shared.tensors, second.shared.tensors)
    assert second.shared.fixed["class_weights"] is first.shared.fixed["class_weights"]
    third, _ = run_round(method, data, second)
    assert not torch.equal(third.shared.fixed["class_weights"], first.shared.fixed["class_weights"])


def test_ratio_loss_weights_every_example_by_its_class(data):
    method = build(RatioLoss)
    method.class_weights.copy_(torch.tensor([1.0, 2.0, 3.0]))
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 2])
    method.eval()
    each = functional.cross_entropy(method.head(method.backbone(images)), labels, reduction="none")
    expected = (each * torch.tensor([1.0, 2.0, 3.0, 3.0])).sum() / 4
    torch.testing.assert_close(method.local_losses((images, labels))["ratio"], expected)


def test_the_servers_set_is_balanced_training_data(data, make_data):
    images, labels = data.auxiliary_set()
    assert labels.bincount().tolist() == [min(4, n) for n in data.class_counts]
    again = make_data(num_clients=3, auxiliary=4)
    again.setup()
    assert torch.equal(images, again.auxiliary_set()[0])
    train_images = torch.cat([batch for k in range(3) for batch, _ in data.client_batches(k)])
    assert all((train_images == image).flatten(1).all(1).any() for image in images)


def test_no_set_no_ratio_loss(make_data):
    module = make_data()
    module.setup()
    with pytest.raises(ConfigError, match=r"data\.auxiliary=0 but this method needs a balanced set"):
        module.auxiliary_set()
