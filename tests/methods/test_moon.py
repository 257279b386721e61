"""MOON by the properties that define it."""

import math

import pytest
import torch

from fedloge.methods import MOON, FedAvg
from harness import build, initial, run_round, same, train


def test_the_first_round_is_fedavgs_and_its_contrast_log_two(data):
    """Previous and received body are the same: the two similarities are equal, and their difference has no gradient."""
    method = build(MOON)
    state, results = run_round(method, data, initial(method, 3))
    assert results[0].update.metrics["contrast"] == pytest.approx(math.log(2), abs=1e-5)
    expected = train(build(FedAvg), data, rounds=1)[0].shared.tensors
    for name, tensor in expected.items():
        torch.testing.assert_close(state.shared.tensors[name], tensor, atol=1e-5, rtol=1e-4)


def test_the_previous_body_is_the_one_the_client_trained(data):
    method = build(MOON)
    state, results = run_round(method, data, initial(method, 3), cohort=[0, 2])
    own = {name.removeprefix("previous."): tensor for name, tensor in state.clients[2].items()}
    trained = results[1].update.tensors
    assert same(own, {name: trained[f"backbone.{name}"] for name in own})
    assert not any(name.startswith("previous") for name in trained)


def test_features_of_the_received_body_do_not_change_in_training(data):
    method = build(MOON)
    state = initial(method, 3)
    images = torch.randn(4, 1, 4, 4)
    method.begin(method_client(data), method.broadcast(state.shared), {})
    before = method.received_features(images)
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    assert torch.equal(method.received_features(images), before)
    assert not torch.equal(method.backbone(images), before)


def method_client(data):
    from harness import population

    return population(data)[0]
