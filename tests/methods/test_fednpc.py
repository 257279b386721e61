"""FedNPC by the properties that define it."""

import torch

from fedloge.methods import FedAvg, FedNPC
from harness import build, finalize, initial, same, train


def test_the_training_is_fedavgs(data):
    assert same(*(train(build(method), data)[0].shared.tensors for method in (FedAvg, FedNPC)))


def test_noise_gets_more_equal_probabilities(data):
    method = build(FedNPC, noise=500)
    state = initial(method, 3)
    state.shared.tensors["head.bias"][0] = 5.0
    final = finalize(method, data, state)
    noise, spread = torch.randn(1000, 6), []
    for one in (state, final):
        scores = noise @ one.shared.tensors["head.weight"].T + one.shared.tensors["head.bias"]
        spread.append((scores.softmax(1).mean(0) - 1 / 3).abs().max())
    assert spread[1] < spread[0] / 2
    assert state.shared.tensors["head.bias"][0] == 5.0
    assert same(final.shared.tensors, finalize(method, data, state).shared.tensors)


def test_only_the_head_changes(data):
    method = build(FedNPC, noise=10)
    state = initial(method, 3)
    final = finalize(method, data, state)
    body = [name for name in state.shared.tensors if name.startswith("backbone")]
    assert same(state.shared.tensors, final.shared.tensors, body)
    assert not same(state.shared.tensors, final.shared.tensors, ["head.weight"])
