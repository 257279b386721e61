"""Fig. 6: the map is repeatable, and neighbours are found."""

import numpy as np
import pytest
import torch

from fedloge.analysis.tsne import nearest, tsne_of_means


def means(num_classes, dim=16):
    return torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_twice_the_same():
    assert tsne_of_means(means(10)) == tsne_of_means(means(10))


@pytest.mark.parametrize("num_classes", [2, 3, 40])
def test_perplexity_stays_below_the_number_of_classes(num_classes):
    found = tsne_of_means(means(num_classes))
    assert found["perplexity"] < num_classes
    assert np.isfinite(found["points"]).all()
    assert len(found["points"]) == num_classes


def test_neighbours():
    """On a line at 0, 1 and 5 the distances are 1, 1 and 4."""
    assert nearest(np.array([[0.0], [1.0], [5.0]])).tolist() == [1, 1, 4]


def test_coincident_means_have_no_distance():
    doubled = torch.cat([means(5), means(5)])
    found = tsne_of_means(doubled)
    assert found["nn_min_features"] == pytest.approx(0, abs=1e-9)
    assert found["nn_median_features"] == pytest.approx(0, abs=1e-9)


def test_scale_and_offset_of_the_features_do_not_matter():
    """Standardised first."""
    one, other = tsne_of_means(means(8)), tsne_of_means(100 * means(8) + 7)
    assert other["nn_median_features"] == pytest.approx(one["nn_median_features"])
