import pytest
import torch

from fedloge.evaluation import metrics
from fedloge.evaluation.bootstrap import interval, resampled

LABELS = torch.arange(400) % 2
PREDICTIONS = torch.where(torch.arange(400) < 100, 1 - LABELS, LABELS)
"""Three quarters are right, in blocks of whole hundreds."""


def test_the_spread_of_the_mean_of_independent_images():
    """The standard error of 400 images with accuracy 3/4 is √(3/16/400) ≈ 0.0217."""
    samples = resampled(PREDICTIONS, LABELS, 2)["acc"]
    assert float(samples.std()) == pytest.approx(0.0217, rel=0.1)
    low, high = interval(samples)
    assert (low, high) == (
        pytest.approx(0.75 - 1.96 * 0.0217, abs=0.006),
        pytest.approx(0.75 + 1.96 * 0.0217, abs=0.006),
    )


def test_whole_groups_are_drawn():
    """Four groups of which one is wrong throughout: the accuracy of a sample is a multiple of a quarter."""
    samples = resampled(PREDICTIONS, LABELS, 2, groups=torch.arange(400) // 100)["acc"]
    assert set(samples.tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert float(samples.std()) == pytest.approx((3 / 16 / 4) ** 0.5, rel=0.1)


def test_the_same_arguments_give_the_same_samples():
    first, second = (resampled(PREDICTIONS, LABELS, 2) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_is_scored_as_the_whole_is():
    """A single group is always the whole test set; class 2 has no test image."""
    labels, predictions = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 1])
    found = resampled(predictions, labels, 3, groups=torch.zeros(4, dtype=torch.int64))
    matrix = metrics.confusion(predictions, labels, 3)
    expected = {
        "acc": metrics.accuracy(matrix),
        "balanced_acc": metrics.balanced_accuracy(matrix),
        "macro_f1": metrics.f1(matrix, "macro"),
    }
    assert {name: pytest.approx(float(samples[0])) for name, samples in found.items()} == expected
    assert expected["balanced_acc"] == pytest.approx(5 / 6)
