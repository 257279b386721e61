import math

import torch

from fedloge.executors.cuda.capture import deviation


def entries(weight=(1.0, 2.0), running_mean=(0.0,), loss=3.0, count=4):
    return {
        "weight": torch.tensor(weight),
        "norm.running_mean": torch.tensor(running_mean),
        "loss: ce": torch.tensor(loss),
        "count": torch.tensor(count),
    }


START, EAGER = entries(), entries((1.0, 4.0), (10.0,), 5.0, 6)


def test_what_a_replay_does_not_change_deviates_by_all_of_the_change():
    for name in ("weight", "norm.running_mean", "loss: ce"):
        assert deviation(START, EAGER, {**EAGER, name: START[name]}) == 1.0
    assert deviation(START, EAGER, {**EAGER, "count": START["count"]}) == math.inf
    assert deviation(START, EAGER, EAGER) == 0.0


def test_the_distance_is_relative_to_the_change():
    assert deviation(START, EAGER, {**EAGER, "weight": torch.tensor([1.0, 4.5])}) == 0.25


def test_rounding_in_an_entry_that_hardly_changes_does_not_count():
    """A bias in front of BatchNorm: its gradient is zero but for rounding. ‖change‖ of all parameters is 2."""
    start = {**START, "bias": torch.tensor([0.0])}
    eager, replayed = ({**EAGER, "bias": torch.tensor([value])} for value in (1e-6, -1e-6))
    assert abs(deviation(start, eager, replayed) - 2e-6 / 0.02) < 1e-9


def test_what_is_not_finite_never_agrees():
    assert not deviation(START, EAGER, {**EAGER, "weight": torch.tensor([1.0, math.nan])}) <= 1.0
    assert not deviation(START, EAGER, {**EAGER, "weight": torch.tensor([1.0, math.inf])}) <= 1.0


def test_entries_that_do_not_change_must_stay():
    assert deviation(START, START, START) == 0.0
    assert deviation(START, START, {**START, "weight": torch.tensor([1.0, 2.5])}) == math.inf
