"""Ditto by the properties that define it."""

import pytest

from fedloge.methods import Ditto, FedAvg
from harness import build, initial, run_round, same, train


@pytest.mark.parametrize("lam", [0.0, 0.75])
def test_dittos_generic_model_is_fedavgs_to_the_bit(data, lam):
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert same(expected, train(build(Ditto, lam=lam), data)[0].shared.tensors)


def test_ditto_without_lambda_trains_locally_whatever_the_others_do(make_data, data):
    alone = make_data(num_clients=3)
    alone.setup()
    first, _ = train(build(Ditto, lam=0.0), data)
    second, _ = train(build(Ditto, lam=0.0), alone, cohort=[1])
    assert same(first.clients[1], second.clients[1])


def test_a_larger_lambda_keeps_the_private_model_closer(data):
    distances = []
    for lam in (0.0, 1.0, 10.0):
        method = build(Ditto, lam=lam)
        start = initial(method, 3)
        state, _ = run_round(method, data, start)
        own = state.clients[0]
        pairs = [(t, start.shared.tensors[n.removeprefix("personal_")]) for n, t in own.items() if "weight" in n]
        distances.append(float(sum((a - b).square().sum() for a, b in pairs)))
    assert distances[0] > distances[1] > distances[2]
