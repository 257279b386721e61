"""FedAdam by the properties that define it."""

import pytest

from fedloge.methods import FedAdam, FedYogi
from harness import initial, run_round
from scalars import TwoClients, on_scalar


@pytest.mark.parametrize(("method", "second"), [(FedAdam, 0.99 * 1e-6 + 0.01 * 12.25), (FedYogi, 1e-6 + 0.01 * 12.25)])
def test_the_first_step_on_paper(method, second):
    """The clients move w from 0 to 3.5 on average (see FedAvgM): m = 0.1 · 3.5, Δ² = 12.25 and v starts at 1e-6.

    Adam: v = 0.99e-6 + 0.01 · 12.25. Yogi: v = 1e-6 - 0.01 · 12.25 · sign(1e-6 - 12.25) = 1e-6 + 0.1225.
    """
    made = on_scalar(method, server_lr=0.1)
    state, _ = run_round(made, TwoClients(), initial(made, 2), epochs=1)
    assert state.shared.tensors["backbone.w"].item() == pytest.approx(0.1 * 0.35 / (second**0.5 + 1e-3), rel=1e-5)


def test_both_moments_are_kept_between_rounds():
    """Round 2 of Adam: from w the mean change is (7 - w)/2."""
    made = on_scalar(FedAdam, server_lr=0.1)
    state, _ = run_round(made, TwoClients(), initial(made, 2), epochs=1)
    w, first, second = 0.1 * 0.35 / (0.12250099**0.5 + 1e-3), 0.35, 0.12250099
    change = (7 - w) / 2
    first, second = 0.9 * first + 0.1 * change, 0.99 * second + 0.01 * change**2
    state, _ = run_round(made, TwoClients(), state, epochs=1)
    assert state.shared.tensors["backbone.w"].item() == pytest.approx(w + 0.1 * first / (second**0.5 + 1e-3), rel=1e-5)
