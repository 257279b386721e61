import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.data.longtail import long_tail, max_over_min, observed_factor, profile_counts
from fedloge.errors import ConfigError


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (50, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    ],
)
def test_published_profiles(factor, expected):
    assert profile_counts(5000, 10, factor).tolist() == expected


def test_step_profile():
    assert profile_counts(100, 5, 10, "step").tolist() == [100, 100, 100, 10, 10]


def test_rounding_does_not_lose_an_image():
    """490 · (1/49) is 9.999999999999998 in floating point, and 10 images are meant."""
    assert profile_counts(490, 2, 49).tolist() == [490, 10]


def test_both_conventions():
    assert max_over_min(100) == max_over_min(0.01) == 100
    assert max_over_min(0.02) == 50


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_bad_factors_name_the_option(value):
    with pytest.raises(ConfigError, match=r"data\.imbalance_factor="):
        max_over_min(value)


def test_a_class_without_images_is_refused():
    with pytest.raises(ConfigError, match=r"imbalance_factor=1000 leaves class 2 without images"):
        profile_counts(50, 3, 1000)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(5, 60), min_size=2, max_size=8), factor=st.floats(1, 5), seed=st.integers(0, 99))
def test_keeps_what_the_profile_says_or_what_there_is(sizes, factor, seed):
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    kept = long_tail(labels, len(sizes), factor, "exponential", seed)
    wanted = profile_counts(max(sizes), len(sizes), factor)
    assert len(set(kept.tolist())) == len(kept)
    assert np.bincount(labels[kept]).tolist() == np.minimum(wanted, sizes).tolist()


def test_without_a_factor_all_stay_in_order_and_the_factor_is_found():
    labels = np.array([2, 0, 0, 3, 0, 2, 0])
    assert long_tail(labels, 4, None, "exponential", 0).tolist() == list(range(7))
    assert observed_factor(labels) == 4.0


def test_factor_one_keeps_everything():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert sorted(long_tail(labels, 3, 1, "exponential", 0)) == list(range(6))
