import torch

from fedloge.federation.sampling import sample_cohort
from fedloge.federation.seeding import Stream, derive


def test_cohort_depends_on_seed_and_round_alone():
    torch.manual_seed(1)
    first = sample_cohort(7, 3, 100, 0.3)
    torch.manual_seed(2)
    assert sample_cohort(7, 3, 100, 0.3) == first
    assert sample_cohort(7, 4, 100, 0.3) != first
    assert sample_cohort(8, 3, 100, 0.3) != first


def test_cohort_sizes():
    assert sample_cohort(0, 1, 40, 1.0) == list(range(40))
    assert len(set(sample_cohort(0, 1, 40, 0.3))) == 12
    assert len(sample_cohort(0, 1, 10, 0.01)) == 1


def test_streams_are_independent():
    seeds = {derive(0, r, c, s, e) for r in range(5) for c in range(5) for s in Stream for e in range(3)}
    assert len(seeds) == 5 * 5 * len(Stream) * 3
