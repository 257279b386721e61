"""FedYogi by the property that sets it apart; its first step is tested with FedAdam's."""

import torch

from fedloge.methods import FedAdam, FedYogi
from scalars import on_scalar


def test_a_small_change_lets_the_second_moment_fall_by_that_change_only():
    """v = 1, Δ² = 0.01: Adam 0.99 · 1 + 0.01 · 0.01 = 0.9901, Yogi 1 - 0.01 · 0.01 = 0.9999."""
    old, squares = torch.tensor([1.0]), torch.tensor([0.01])
    for method, expected in ((FedAdam, 0.9901), (FedYogi, 0.9999)):
        torch.testing.assert_close(on_scalar(method).second_moments(old, squares), torch.tensor([expected]))
