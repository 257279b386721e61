"""Fig. 3: what the curves of a head must be at their ends, and that classes count the same."""

import pytest
import torch

from fedloge.analysis.features import Features, Head
from fedloge.analysis.pruning import RATIOS, pruning_curves

GROUPS = ["many", "medium", "few"]


def example(counts=(30, 20, 10), dim=20):
    """Features of three classes, each strong in coordinates of its own; the last six are zero everywhere."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.zeros(3, dim)
    for c in range(3):
        centres[c, 4 * c : 4 * c + 4] = 2.0
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    noise = torch.rand(len(labels), dim, generator=generator)
    noise[:, 14:] = 0
    head = Head(centres.double(), torch.tensor([0.1, 0.0, 0.0]).double(), frozen=True)
    return Features(centres[labels] + noise, labels), head


def test_ends():
    """Ratio 0 is the unpruned head's mean accuracy over classes; ratio 1 its bias alone, which names class 0."""
    features, head = example()
    scores = features.values.double() @ head.weight.T + head.bias
    right = scores.argmax(1) == features.labels
    whole = sum(float(right[features.labels == c].double().mean()) for c in range(3)) / 3
    for curves in pruning_curves(features, {"sse": head}, GROUPS)["sse"].values():
        assert curves["all"][0] == pytest.approx(whole)
        assert curves["all"][-1] == pytest.approx(1 / 3)
        assert [curves[group][-1] for group in GROUPS] == [1, 0, 0]
        assert len(curves["all"]) == len(RATIOS)


def test_tied_zeros_are_pruned_by_rank():
    """Six coordinates of twenty are exactly zero: of ratio 0.3 exactly they go, and nothing changes."""
    features, head = example()
    curve = pruning_curves(features, {"sse": head}, GROUPS)["sse"]["ascending"]["all"]
    assert curve[: RATIOS.index(0.3) + 1] == [curve[0]] * 7


def test_the_dominant_coordinates_carry_a_class():
    features, head = example()
    curves = pruning_curves(features, {"sse": head}, GROUPS)["sse"]
    at = RATIOS.index(0.4)
    assert curves["ascending"]["all"][at] == 1
    assert curves["descending"]["all"][at] < 0.5


def test_classes_count_the_same():
    """Ten times the images of one class change no accuracy."""
    features, head = example((20, 20, 20))
    more = features.labels == 0
    values = torch.cat([features.values, *[features.values[more]] * 9])
    labels = torch.cat([features.labels, *[features.labels[more]] * 9])
    one, ten = (pruning_curves(own, {"a": head}, GROUPS) for own in (features, Features(values, labels)))
    for order in ("ascending", "descending"):
        assert one["a"][order]["all"] == pytest.approx(ten["a"][order]["all"])
