"""Property 9: the ends of the curve, ties, and coordinates that do not matter."""

import pytest
import torch

from fedloge.collapse import pruning_curve
from fedloge.errors import ConfigError


def example(dead=0):
    """Balanced ReLU features of 4 classes with a classifier that has learnt most of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)
    centres = torch.rand(4, 10, generator=generator, dtype=torch.float64)
    features = (centres[labels] + 0.3 * torch.randn(200, 10, generator=generator, dtype=torch.float64)).relu()
    centred = centres - centres.mean(0)
    weight, bias = centred, -centred @ centres.mean(0)
    if dead:
        features = torch.cat([features, torch.zeros(200, dead)], 1)
        weight = torch.cat([weight, torch.zeros(4, dead)], 1)
    return features, labels, weight, bias


def test_ends():
    """Ratio 0 is the unpruned accuracy, ratio 1 that of the bias alone: one class of four."""
    features, labels, weight, bias = example()
    whole = float(((features @ weight.T + bias).argmax(1) == labels).double().mean())
    for dominant_first in (False, True):
        curve = pruning_curve(features, labels, weight, bias, dominant_first=dominant_first)
        assert (curve[0], curve[-1]) == (whole, 0.25)
    assert whole > 0.6


def test_dominant_coordinates_carry_the_accuracy():
    """Ratio one half: without the weakest half of its coordinates a class loses less than without the strongest."""
    weakest, strongest = (pruning_curve(*example(), [0.5], dominant_first=order)[0] for order in (False, True))
    assert weakest > strongest


def test_coordinates_that_are_zero_in_mean_and_head_change_nothing():
    """Ten dead coordinates of twenty rank lowest: up to ratio 1/2 nothing happens."""
    alive, dead = example(), example(dead=10)
    assert pruning_curve(*dead, [0, 0.1, 0.3, 0.5]) == [pruning_curve(*alive, [0])[0]] * 4
    assert pruning_curve(*dead, [0.75]) == pruning_curve(*alive, [0.5])


def test_ranking_by_size():
    """A strongly negative coordinate is the weakest by sign and the strongest by size."""
    features = torch.tensor([[-3.0, 0.1], [3.0, 0.1]]).repeat(5, 1)
    labels, weight = torch.tensor([0, 1]).repeat(5), torch.tensor([[-1.0, 0.0], [0.1, 0.0]])
    bias = torch.tensor([0.0, 0.5])
    assert pruning_curve(features, labels, weight, bias, [0.5], absolute=True) == [1.0]
    assert pruning_curve(features, labels, weight, bias, [0.5]) == [0.5]


def test_bad_input():
    features, labels, weight, bias = example()
    with pytest.raises(ConfigError, match="ratios="):
        pruning_curve(features, labels, weight, bias, [1.1])
    with pytest.raises(ConfigError, match=r"leave 1 class\(es\) empty"):
        pruning_curve(features[labels < 3], labels[labels < 3], weight, bias)
