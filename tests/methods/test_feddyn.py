"""FedDyn by the properties that define it."""

from fedloge.methods import FedDyn
from harness import initial, run_round
from scalars import TwoClients, on_scalar


def test_two_rounds_on_paper():
    """lr 0.5, one step, α = 1; gradient (w - x) - g_k + (w - w^t), whose last part is zero at the first step.

    Round 1 from 0: w_0 = 2, g_0 = -2; w_1 = 4, g_1 = -4; average 3.5, h = -3.5, so w = 3.5 + 3.5 = 7.
    Round 2: client 0 has 7 - 4 + 2 = 5, so 4.5, and g_0 = -2 + 2.5 = 0.5; client 1 has 7 - 8 + 4 = 3, so 5.5, and
    g_1 = -4 + 1.5 = -2.5; average 5.25, h = -3.5 + 1.75 = -1.75, w = 7: the optimum (4 + 3·8)/4 stays.
    """
    method = on_scalar(FedDyn, alpha=1.0)
    state, _ = run_round(method, TwoClients(), initial(method, 2), epochs=1)
    assert [own["own_gradient"].sum().item() for own in state.clients] == [-2, -4]
    assert state.shared.tensors["backbone.w"].item() == 7
    state, results = run_round(method, TwoClients(), state, epochs=1)
    assert [result.update.tensors["backbone.w"].item() for result in results] == [4.5, 5.5]
    assert [own["own_gradient"].sum().item() for own in state.clients] == [0.5, -2.5]
    assert state.shared.fixed["history"].sum().item() == -1.75
    assert state.shared.tensors["backbone.w"].item() == 7


def test_half_of_the_clients_move_the_history_half_as_far():
    """Only client 1 trains: average 4, h = -1 · ½ · 4 = -2, w = 4 + 2."""
    method = on_scalar(FedDyn, alpha=1.0)
    state, _ = run_round(method, TwoClients(), initial(method, 2), epochs=1, cohort=[1])
    assert state.shared.fixed["history"].sum().item() == -2
    assert state.shared.tensors["backbone.w"].item() == 6
