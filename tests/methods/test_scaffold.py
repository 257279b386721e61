"""SCAFFOLD by the properties that define it."""

import pytest

from fedloge.methods import SCAFFOLD, FedAvg
from fedloge.methods.scaffold import plain_steps
from harness import build, initial, run_round, same, train
from scalars import TwoClients, on_scalar


def test_control_variates_on_paper():
    """lr 0.5, one step a round, gradient w - x; c = c_k = 0 at first.

    Round 1: w_0 = 2, c_0 = (0 - 2)/0.5 = -4; w_1 = 4, c_1 = -8; w = (2 + 3·4)/4 = 3.5; c = (-4 - 8)/2 = -6.
    Round 2: client 0 has 3.5 - 4 + 4 - 6 = -2.5, so 4.75; client 1 has 3.5 - 8 + 8 - 6 = -2.5, so 4.75 too: no drift.
    c_0 = -4 + 6 + (3.5 - 4.75)/0.5 = -0.5, c_1 = -8 + 6 - 2.5 = -4.5; c = -6 + (3.5 + 3.5)/2 = -2.5.
    """
    method = on_scalar(SCAFFOLD)
    state, results = run_round(method, TwoClients(), initial(method, 2), epochs=1)
    assert state.shared.tensors["backbone.w"].item() == 3.5
    assert [own["own_control"].sum().item() for own in state.clients] == [-4, -8]
    assert state.shared.fixed["control"].sum().item() == -6
    state, results = run_round(method, TwoClients(), state, epochs=1)
    assert [result.update.tensors["backbone.w"].item() for result in results] == [4.75, 4.75]
    assert [own["own_control"].sum().item() for own in state.clients] == [-0.5, -4.5]
    assert state.shared.fixed["control"].sum().item() == -2.5


def test_the_mean_gradient_is_right_with_momentum():
    """Gradient 1, m = 0.5, three steps: v = 1, 1.5, 1.75, together 4.25. Without momentum 3."""
    assert plain_steps(3, 0.5) == pytest.approx(4.25)
    assert plain_steps(3, 0.0) == 3


def test_the_first_round_is_fedavgs(data):
    expected, found = (train(build(method), data, rounds=1)[0].shared.tensors for method in (FedAvg, SCAFFOLD))
    assert same(expected, {name: found[name] for name in expected})


def test_a_client_left_out_keeps_its_control_variate(data):
    method = build(SCAFFOLD)
    state, _ = train(method, data, rounds=1)
    before = state.clients[1]["own_control"].clone()
    state, _ = run_round(method, data, state, cohort=[0, 2])
    assert same({"c": before}, {"c": state.clients[1]["own_control"]})
