"""What becomes of an analysis where method or data lack something; no run is trained."""

import pytest
import torch

from fedloge.analysis.analyze import _tidy, choose_classes
from fedloge.analysis.diagnostics import describe, diagnose
from fedloge.analysis.features import Features, Head, Subject
from fedloge.analysis.figures import FIGURES
from fedloge.analysis.text import comparison_markdown, headline, markdown
from fedloge.errors import ConfigError
from fedloge.federation.state import ClientStore, FederatedState, SharedState

NAMES = ("cat", "dog", "eel")


def make_subject(heads=None, own=None, tested=3, counts=((8, 4, 2), (6, 0, 1))):
    """Random features of three classes in five dimensions."""
    generator = torch.Generator().manual_seed(0)

    def features(labels):
        return Features(torch.rand(len(labels), 5, generator=generator) + labels.unsqueeze(1), labels)

    client_counts = torch.tensor(counts)
    clients = ClientStore(len(counts), lambda _: own or {})
    return Subject(
        method="Mine",
        dataset="toy",
        round=1,
        stage="last",
        class_names=NAMES,
        groups=("many", "medium", "few"),
        test=features(torch.arange(tested).repeat(6)),
        train=features(torch.arange(3).repeat_interleave(client_counts.sum(0))),
        heads=heads or {},
        classifier=next(iter(heads), None) if heads else None,
        agreement=1.0,
        client_heads=[name.removesuffix(".weight") for name in own or {}],
        client_counts=client_counts,
        state=FederatedState(1, SharedState({}), clients),
    )


def linear(frozen=False):
    return Head(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double(), None, frozen)


def analyse(subject):
    shown = choose_classes(subject, ())
    return _tidy({"run": {"name": "mine", **describe(subject)}, **diagnose(subject, shown)})


@pytest.mark.parametrize(
    "subject",
    [
        make_subject(),
        make_subject({"head": linear()}, tested=2),
        make_subject({"head": linear()}, {"phi.weight": torch.rand(3, 5)}, counts=((3, 3, 3), (3, 3, 3))),
    ],
    ids=["no head", "an untested class", "equal counts"],
)
def test_what_is_missing_is_left_out(subject):
    """Text and figures are made of what there is, without a number that does not exist."""
    result = analyse(subject)
    drawn = [name for name, figure in FIGURES.items() if figure({"mine": result}) is not None]
    text = markdown(result, drawn) + comparison_markdown({"mine": result}, drawn)
    assert "nan" not in text
    assert "None" not in text
    assert set(headline("mine", result)) == set(headline("other", result))
    for why in result["left_out"]:
        assert why in text


def test_no_head():
    result = analyse(make_subject())
    assert result["pruning"] is None
    assert result["frames"] == result["norms"] == {}
    assert "nc3_cosine" not in result["collapse"]["train"]
    assert "no linear head: no pruning curves" in result["left_out"]


def test_an_untested_class_is_on_no_map():
    result = analyse(make_subject({"head": linear()}, tested=2))
    assert [facts["name"] for facts in result["tsne"]["classes"]] == ["cat", "dog"]
    assert result["degeneration"]["classes"][2]["spread"] is None
    assert result["degeneration"]["spread"] is not None
    assert "a class without test images: no pruning curves" in result["left_out"]


def test_equal_counts_have_no_exponent():
    norms = analyse(make_subject({"head": linear()}, {"phi.weight": torch.rand(3, 5)}, counts=((3, 3, 3),)))["norms"]
    assert norms["head"]["exponent"] is None
    assert norms["phi_k"]["clients"] == 0


def test_negative_features_are_ranked_by_size():
    subject = make_subject({"head": linear()})
    subject.test.values.sub_(3)
    assert analyse(subject)["pruning"]["ranked_by"] == "|mean|"
    assert analyse(make_subject({"head": linear()}))["pruning"]["ranked_by"] == "mean"


def test_a_frozen_head_without_zeros_masks_nothing():
    result = analyse(make_subject({"sse": linear(frozen=True)}))
    assert result["run"]["zeros_of_frozen_head"] == 0
    assert result["norms"] == {}
    assert "mean_masked" not in result["degeneration"]


def test_every_masked_coordinate_is_grey():
    """Single ones between others too: the first, third and fifth of the sorted five."""
    head = linear(frozen=True)
    head.weight[0] = torch.ones(5)
    subject = make_subject({"sse": head})
    order = analyse(subject)["degeneration"]["curves"][0]["coordinate"]
    head.weight[0, [order[i] for i in (0, 2, 4)]] = 0
    figure = FIGURES["degeneration"]({"mine": analyse(subject)})
    bars = [patch for patch in figure.axes[0].patches if patch.get_width() == 1]
    assert [bar.get_x() + 0.5 for bar in bars] == [0, 2, 4]


def test_classes_are_chosen_by_name_or_number():
    subject = make_subject(tested=2)
    assert choose_classes(subject, ()) == [0, 1]
    assert choose_classes(subject, ["dog", 0]) == [1, 0]
    with pytest.raises(ConfigError, match="class='eel' has no test images"):
        choose_classes(subject, ["eel"])
    with pytest.raises(ConfigError, match="The classes are cat, dog, eel"):
        choose_classes(subject, ["7"])
