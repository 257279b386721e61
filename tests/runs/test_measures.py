import math

import pytest

from fedloge.runs.measures import GM, MEASURES, PM, headline_text, mean_std, mean_text, read_all

SUMMARY = {
    "global": {"acc": 0.435, "acc_few": math.nan},
    "personal": None,
    "last10": {"global": {"mean": 0.42, "std": 0.01}, "personal": None},
    "rounds": 4,
    "seconds": 10.0,
    "bytes_up": 3_000_000,
    "bytes_down": 5_000_000,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [("GM", 0.435), ("few", None), ("PM", None), ("GM last 10", 0.42), ("PM last 10", None), ("s/round", 2.5)],
)
def test_a_number_is_found_in_a_summary(key, value):
    assert MEASURES[key].read(SUMMARY) == value
    assert MEASURES[key].read(None) is None


def test_megabytes_are_sent_and_received_together():
    """3 MB up and 5 MB down over 4 rounds are 2 MB a round."""
    megabytes = MEASURES["MB/round"]
    assert megabytes.read(SUMMARY) == 2_000_000
    assert megabytes.text([2_000_000]) == "2.00"
    assert not megabytes.higher_is_better


def test_mean_and_deviation_of_values():
    """The sample standard deviation of 1 and 3 is the square root of 2."""
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_text([1.0, 3.0], 2) == "2.00 ± 1.41"
    assert (mean_text([1.0]), mean_text([])) == ("1.0", "")
    assert math.isnan(mean_std([1.0])[1])
    assert all(math.isnan(value) for value in mean_std([]))


def test_shares_are_shown_in_percent():
    assert GM.text([0.435]) == "43.5"
    assert read_all([SUMMARY, {"global": None}], GM) == [0.435]
    assert headline_text({"global/acc": 0.5, "train/loss": 1.0}) == ["GM 50.0"]


def test_paths_of_one_evaluation_are_columns_of_metrics_csv():
    assert (GM.path, PM.path, PM.name) == ("global/acc", "personal/acc_mean", "acc_mean")
