"""Fig. 1: moments of features by class, and what the correlations say of features whose answer is known."""

import math

import pytest
import torch

from fedloge.analysis import features as features_module
from fedloge.analysis.degeneration import averages, class_moments, curve, degeneration
from fedloge.analysis.features import Features


def test_moments_are_those_of_each_class(monkeypatch):
    """In parts of seven features, and with an offset that a one-pass variance in float32 would drown in."""
    monkeypatch.setattr(features_module, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (50,), generator=generator)
    values = 1000 + torch.randn(50, 4, generator=generator)
    means, variances = class_moments(Features(values, labels), 4)
    for c in range(3):
        own = values[labels == c].double()
        torch.testing.assert_close(means[c], own.mean(0))
        torch.testing.assert_close(variances[c], own.var(0, correction=0), rtol=1e-9, atol=0)
    assert means[3].isnan().all()


@pytest.mark.parametrize(("power", "plain", "relative"), [(1.0, 1, -1), (3.0, 1, 1), (-1.0, -1, -1)])
def test_correlations_with_a_power_of_the_mean(power, plain, relative):
    """v = m^p: v rises for p > 0, v/m² = m^(p-2) for p > 2. So v can rise while v/m² falls."""
    means = torch.linspace(0.1, 3, 40, dtype=torch.float64).unsqueeze(0)
    (row,) = degeneration(means, means**power)
    assert row["spearman_variance"] == pytest.approx(plain, abs=1e-5)
    assert row["spearman_relative"] == pytest.approx(relative, abs=1e-5)


def test_division_alone_gives_a_falling_relative_variance():
    """v is independent of m, so the shuffled correlation is the observed one, and far below zero."""
    generator = torch.Generator().manual_seed(1)
    means = 0.05 + torch.rand(5, 200, generator=generator, dtype=torch.float64)
    variances = 0.5 + torch.rand(5, 200, generator=generator, dtype=torch.float64)
    found = averages(degeneration(means, variances), ["many"] * 5)
    assert abs(found["spearman_variance"]) < 0.1
    assert found["spearman_relative"] < -0.8
    assert found["spearman_shuffled"] == pytest.approx(found["spearman_relative"], abs=0.03)


def test_dead_coordinates_are_counted_and_correlate_with_nothing():
    means = torch.tensor([[3.0, 2.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    variances = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    (row,) = degeneration(means, variances)
    assert row["dead"] == 2
    assert row["spearman_variance"] == pytest.approx(-1, abs=1e-5)
    assert row["spread"] == pytest.approx(6 / 14)


def test_masked_and_kept_coordinates():
    means = torch.tensor([[4.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    masked = torch.tensor([[False, True, False, True]])
    (row,) = degeneration(means, means / 10, masked)
    assert (row["mean_masked"], row["mean_kept"]) == (1.5, 2.5)
    assert row["variance_masked"] == pytest.approx(0.15)
    assert curve(0, means, means / 10, masked)["masked"] == [False, True, False, True]
    assert "mean_masked" not in degeneration(means, means)[0]


def test_the_curve_is_sorted_by_the_mean():
    found = curve(0, torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[10.0, 30.0, 20.0]]))
    assert found["coordinate"] == [1, 2, 0]
    assert found["variance"] == [30, 20, 10]
    assert found["relative"] == pytest.approx([30 / 9, 5, 10])


def test_averages_leave_out_what_does_not_exist():
    rows = [{"spread": 1.0}, {"spread": math.nan}, {"spread": 3.0}]
    found = averages(rows, ["many", "many", "few"])
    assert found["spread"] == 2
    assert found["groups"] == {"many": {"spread": 1.0}, "few": {"spread": 3.0}}
