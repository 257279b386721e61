import numpy as np
import pytest

from fedloge.data.statistics import distance_to_global, effective_classes, present_classes, shares

COUNTS = np.array([[4, 4, 0], [8, 0, 0], [0, 0, 0]])


def test_shares_and_present_classes():
    np.testing.assert_allclose(shares(COUNTS), [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 0]])
    assert present_classes(COUNTS).tolist() == [2, 1, 0]


def test_effective_classes_of_two_equal_ones_is_two():
    np.testing.assert_allclose(effective_classes(COUNTS)[:2], [2, 1])


def test_distance_to_global():
    """The whole is (12, 4, 0)/16 = (3/4, 1/4, 0): half of |-1/4| + |1/4| is 1/4 for both clients that have images."""
    assert distance_to_global(COUNTS)[:2].tolist() == pytest.approx([0.25, 0.25])
    assert distance_to_global(np.array([[5, 2, 1]])).tolist() == [0]
