"""FedAvgM by the properties that define it."""

import torch

from fedloge.methods import FedAvg, FedAvgM
from harness import build, initial, run_round, same, train
from scalars import TwoClients, on_scalar


def test_the_servers_momentum_on_paper():
    """lr 0.5, one step: from w the clients go to (w + 4)/2 and (w + 8)/2, on average to (w + 7)/2. β = 0.5, η = 1.

    Round 1: Δ = 3.5, v = 3.5, w = 3.5. Round 2: Δ = (3.5 + 7)/2 - 3.5 = 1.75, v = 1.75 + 1.75 = 3.5, w = 7.
    """
    method = on_scalar(FedAvgM, server_momentum=0.5)
    state, _ = run_round(method, TwoClients(), initial(method, 2), epochs=1)
    assert state.shared.tensors["backbone.w"].item() == 3.5
    state, _ = run_round(method, TwoClients(), state, epochs=1)
    assert state.shared.tensors["backbone.w"].item() == 7.0


def test_without_momentum_it_is_fedavg(data):
    expected, found = (train(build(m, **o), data)[0] for m, o in ((FedAvg, {}), (FedAvgM, {"server_momentum": 0.0})))
    for name, tensor in expected.shared.tensors.items():
        torch.testing.assert_close(found.shared.tensors[name], tensor)


def test_the_velocity_never_leaves_the_server(data):
    method = build(FedAvgM)
    state, results = train(method, data, rounds=1)
    assert "velocity" not in method.broadcast(state.shared).fixed
    assert not any("velocity" in result.update.tensors for result in results)
    assert same(method.broadcast(state.shared).tensors, state.shared.tensors)
