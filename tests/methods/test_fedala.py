"""FedALA by the properties that define it."""

import torch

from fedloge.methods import FedALA, FedAvg
from harness import build, initial, population, run_round, same, train


def test_the_first_round_is_fedavgs(data):
    expected, found = (train(build(method), data, rounds=1)[0].shared.tensors for method in (FedAvg, FedALA))
    assert same(expected, found)


def test_the_head_starts_between_the_clients_own_and_the_received_one(data):
    method = build(FedALA)
    state, _ = run_round(method, data, initial(method, 3))
    own, received = state.clients[0], state.shared.tensors
    method.begin(population(data)[0], state.shared, own)
    with torch.no_grad():
        method.eval().before_training(list(data.client_batches(0)))
    for name in ("head.weight", "head.bias"):
        weights, start = method.client.memory[f"note/{name}"], method.state_dict()[name]
        assert ((weights >= 0) & (weights <= 1)).all()
        torch.testing.assert_close(start, own[name] + weights * (received[name] - own[name]))
    assert (method.client.memory["note/head.weight"] < 1).any()
    for name in received:
        if name.startswith("backbone"):
            assert torch.equal(method.state_dict()[name], received[name])


def test_weights_are_kept_from_round_to_round(data):
    method = build(FedALA)
    state, _ = train(method, data, rounds=2)
    assert {"note/head.weight", "note/head.bias"} <= state.clients[0].keys()
    state, _ = run_round(method, data, state, cohort=[1])
    assert {"note/head.weight", "note/head.bias"} <= state.clients[0].keys()
