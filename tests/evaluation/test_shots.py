import pytest

from fedloge.evaluation.shots import shots


def counts(num_classes, n_max, factor):
    return [int(n_max * factor ** (-c / (num_classes - 1))) for c in range(num_classes)]


@pytest.mark.parametrize(
    ("num_classes", "n_max", "factor", "sizes"),
    [
        (10, 5000, 50, (4, 3, 3)),
        (10, 5000, 100, (3, 3, 4)),
        (100, 500, 50, (34, 34, 32)),
        (100, 500, 100, (30, 31, 39)),
    ],
)
def test_mass_rule_gives_the_published_groups(num_classes, n_max, factor, sizes):
    groups = shots(counts(num_classes, n_max, factor))
    assert tuple(groups.count(name) for name in ("many", "medium", "few")) == sizes


def test_groups_follow_counts_not_positions():
    assert shots([1, 90, 9]) == ["few", "many", "medium"]
    assert shots([101, 100, 20, 19], "count") == ["many", "medium", "medium", "few"]
