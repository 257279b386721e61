"""Trained networks against the closed form. Published finals are in docs/neural_collapse.md."""

import math
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch

from fedloge import collapse
from fedloge.collapse.lab.deep_linear import DeepLinear, decay, expect, judge, run, train
from fedloge.errors import ConfigError

COUNTS = [200, 100, 50, 50]
SMALL = DeepLinear([20, 10, 5, 5], width=16, lambda_w=5e-3, lambda_h=5e-3, steps=1500, points=3)
CE = DeepLinear(
    [5] * 4, loss="ce", bias=True, width=16, lambda_w=1e-3, lambda_h=1e-3, optimizer="lbfgs", steps=600, points=2
)


def last(settings, layers, seed=0):
    return train(settings, layers, seed)[1][-1]


def assert_below(values, nc1, nc2, nc3):
    assert values["nc1"] < nc1
    assert max(values["nc2_w"], values["nc2_h"]) < nc2
    assert values["nc3"] < nc3


# Gradient descent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_imbalanced_squared_error(layers):
    """n=20/10/5/5, d=16, λ=5e-3, 1500 steps; and property 6: no training is below the constructed optimum."""
    values = last(SMALL, layers)
    assert_below(values, nc1=1e-14, nc2=1e-6, nc3=1e-7)
    assert values["excess"] > -1e-12
    assert judge(replace(SMALL, nc1_below=1e-14), expect(SMALL, layers), values) == "collapsed"


@pytest.mark.parametrize("layers", [1, 2])
def test_balanced_squared_error_with_a_bias(layers):
    settings = replace(SMALL, counts=[10] * 4, bias=True)
    network, curve = train(settings, layers, 0)
    assert_below(curve[-1], nc1=1e-14, nc2=4e-7, nc3=1e-7)
    assert network.bias.tolist() == pytest.approx([0.25] * 4, abs=2e-4)
    assert curve[-1]["excess"] > -1e-12
    assert curve[-1]["rank"] == 3


def test_known_final_and_rate():
    """n=200/100/50/50, d=64, λ=5e-4, std 0.1, 8000 steps: NC1 4e-13, NC2 1e-5, NC3 2e-7 or less; CDNV falls by 1e-3."""
    settings = DeepLinear(COUNTS, steps=8000, points=8, std=0.1)
    curve = train(settings, 1, 0)[1]
    assert_below(curve[-1], nc1=1e-12, nc2=3e-5, nc3=2e-7)
    assert decay(settings) == pytest.approx(1e-3)
    for first, second in pairwise(curve[2:]):
        rate = math.log(first["cdnv"] / second["cdnv"]) / (second["step"] - first["step"])
        assert 0.95e-3 < rate < 1.005e-3
    assert judge(settings, expect(settings, 1), curve[-1]) == "needs 16,000 steps"


def test_a_small_start_collapses_every_class():
    """With two layers zero is a local minimum: std 0.05 ends there, 0.3 does not (d=16, λ=0.014)."""
    settings = replace(SMALL, lambda_w=0.014, lambda_h=0.014)
    small = last(replace(settings, std=0.05), 2)
    assert small["w_error"] == pytest.approx(1, abs=1e-6)
    assert judge(settings, expect(settings, 2), small) == "in a local minimum"
    assert last(settings, 2)["w_error"] < 1e-12


# L-BFGS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_lengths_of_the_orthogonal_frame(layers):
    """Relative errors of ‖w‖ and ‖h‖ about 1e-8; losses agree to 1e-10; off the diagonal at most 1e-6."""
    settings = DeepLinear(COUNTS, optimizer="lbfgs", steps=3000, points=1, std=0.2)
    network, curve = train(settings, layers, 0)
    assert max(curve[-1]["w_error"], curve[-1]["h_error"]) < 5e-7
    assert abs(curve[-1]["excess"]) < 1e-10
    assert curve[-1]["excess"] > -1e-12
    weight = network.product().detach()
    gram = weight @ weight.T
    assert float((gram - gram.diagonal().diag()).abs().max()) < 1e-6


@pytest.mark.parametrize(("layers", "lam"), [(1, 0.02), (2, 0.012), (3, 0.01)])
def test_minority_collapse(layers, lam):
    """n=60/30/10/4: theory says that class 4 vanishes, and training finds that, or stays in the metastable root."""
    counts = [60, 30, 10, 4]
    settings = DeepLinear(counts, width=16, lambda_w=lam, lambda_h=lam, optimizer="lbfgs", steps=300, points=1)
    frame = collapse.orthogonal_frame(counts, layers, lam, lam)
    assert frame.collapsed.tolist() == [False, False, False, True]
    network, curve = train(settings, layers, 0)
    assert network.product().norm(dim=1)[3].item() < 1e-4
    assert curve[-1]["w_error"] < 1e-6
    assert curve[-1]["excess"] > -1e-12


def test_training_may_stay_in_the_metastable_root():
    """λ=0.01: the smallest class could gain by vanishing, and does not; the loss is that of the metastable branch."""
    counts = [60, 30, 10, 4]
    settings = DeepLinear(counts, width=16, lambda_w=0.01, lambda_h=0.01, optimizer="lbfgs", steps=300, points=1)
    values = last(settings, 2)
    metastable = collapse.orthogonal_frame(counts, 2, 0.01, 0.01, branch="metastable")
    assert values["loss"] == pytest.approx(metastable.loss, abs=1e-10)
    assert values["excess"] > 1e-4
    assert judge(settings, expect(settings, 2), values) == "in a local minimum"


def test_narrow_layers_and_unequal_ridges():
    """R < K keeps the largest classes; λ_W ≠ λ_H."""
    settings = DeepLinear(
        [40, 30, 20, 10], width=2, lambda_w=2e-3, lambda_h=5e-4, optimizer="lbfgs", steps=400, points=1
    )
    values = last(settings, 2)
    assert values["w_error"] < 1e-6
    assert values["rank"] == 2
    assert abs(values["excess"]) < 1e-10


# Cross entropy -----------------------------------------------------------------------------------------------


def test_cross_entropy_with_one_layer():
    """K=4, n=10, λ=5e-3: NC1 1e-19, NC2 and NC3 5e-9; loss 0.24300."""
    settings = replace(CE, counts=[10] * 4, lambda_w=5e-3, lambda_h=5e-3, std=0.1)
    values = last(settings, 1)
    assert_below(values, nc1=1e-15, nc2=5e-8, nc3=5e-8)
    assert values["loss"] == pytest.approx(0.24300, abs=5e-6)
    assert values["excess"] > -1e-12
    assert max(values["w_error"], values["h_error"]) < 1e-6


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_classes_reach_the_etf_through_more_layers(layers, seed):
    settings = replace(CE, counts=[5] * 3)
    assert not expect(settings, layers).caveat
    assert_below(last(settings, layers, seed), nc1=1e-12, nc2=1e-6, nc3=1e-6)


@pytest.mark.parametrize(
    ("classes", "layers", "etf", "best", "rank"), [(6, 2, 0.05148, 0.0483, 3), (4, 3, 0.02623, 0.02374, 2)]
)
def test_deep_cross_entropy_goes_below_the_etf(classes, layers, etf, best, rank):
    """Not one run may end above the ETF; the best of ten is below it by much, with a lower rank."""
    settings = replace(CE, counts=[5] * classes, std=0.1)
    assert expect(settings, layers).loss == pytest.approx(etf, abs=5e-6)
    runs = [last(settings, layers, seed) for seed in range(10)]
    assert all(values["loss"] <= etf + 1e-5 for values in runs)
    lowest = min(runs, key=lambda values: values["loss"])
    assert lowest["loss"] == pytest.approx(best, abs=5e-5)
    assert lowest["rank"] == rank
    assert "lower loss" in judge(settings, expect(settings, layers), lowest)


def test_ten_classes_through_two_layers_never_reach_the_etf():
    """K=10, d=64, λ=1e-4: none of five."""
    settings = replace(CE, counts=[5] * 10, width=64, lambda_w=1e-4, lambda_h=1e-4, std=0.1)
    runs = [last(settings, 2, seed) for seed in range(5)]
    assert all(values["excess"] < -1e-4 and values["nc2_w"] > 0.5 for values in runs)


def test_seli_is_approached_slowly():
    """Gram distance .115 at λ=1e-3 and .046 at 1e-7, falling in between."""
    distances = []
    for lam in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        settings = replace(CE, counts=[40, 40, 4, 4], bias=False, lambda_w=lam, lambda_h=lam, std=0.1, steps=1000)
        distances.append(last(settings, 1)["nc2_w"])
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == pytest.approx(0.115, abs=1e-3)
    assert distances[-1] == pytest.approx(0.046, abs=1e-3)


@pytest.mark.parametrize(("ratio", "cosine"), [(1, -0.33), (10, 0.17), (100, 0.80), (1000, 1.00)])
def test_minority_classes_of_cross_entropy_merge(ratio, cosine):
    """Cosine of the two minority rows of W, λ=1e-3, n=[5R, 5R, 5, 5]."""
    settings = replace(CE, counts=[5 * ratio] * 2 + [5, 5], bias=False, std=0.1)
    weight = train(settings, 1, 0)[0].product().detach()
    assert float(torch.cosine_similarity(weight[2], weight[3], dim=0)) == pytest.approx(cosine, abs=0.005)


# MLP, output, bad input --------------------------------------------------------------------------------------


def test_mlp_features_begin_to_collapse():
    settings = DeepLinear(
        [20, 10, 5],
        features="mlp",
        width=24,
        lambda_w=1e-3,
        lambda_h=1e-3,
        optimizer="adam",
        lr=3e-3,
        steps=400,
        points=2,
    )
    curve = train(settings, 2, 0)[1]
    assert curve[-1]["nc1"] < 1e-2 * curve[0]["nc1"]
    assert curve[-1]["excess"] > -1e-12
    assert judge(settings, expect(settings, 2), curve[-1]).startswith(
        "not promised (features of a network are not free)"
    )


def test_the_output_folder(tmp_path, capsys):
    settings = replace(SMALL, layers=[1, 2], steps=60, output=str(tmp_path / "out"), figure=False)
    final = run(settings)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"curves.csv", "final.csv", "summary.json"}
    text = (tmp_path / "out" / "curves.csv").read_text().splitlines()
    assert text[0].startswith("layers,seed,step,nc1,cdnv")
    assert len(text) == 1 + 2 * 4
    assert [row["verdict"] for row in final] == ["needs 1,600 steps"] * 2
    assert "against the orthogonal frame" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--overwrite=true"):
        run(settings)
    run(replace(settings, overwrite=True))


@pytest.mark.parametrize(
    ("match", "options"),
    {
        "counts=.* has fewer than two classes": {"counts": [5]},
        "counts=.* has an empty class": {"counts": [5, 0]},
        "layers=0 must be at least 1": {"layers": [0]},
        "layers=.* is empty": {"layers": []},
        "width=0": {"width": 0},
        "steps=0": {"steps": 0},
        "lambda_w=-0.1 must be positive": {"lambda_w": -0.1},
        "lambda_h=-0.1 must be positive": {"lambda_h": -0.1},
        "momentum=1.0": {"momentum": 1.0},
        "std=0.0": {"std": 0.0},
        "lr=0.3 has no effect with optimizer=lbfgs": {"optimizer": "lbfgs", "lr": 0.3, "momentum": 0.9},
        "momentum=0.5 has no effect with optimizer=adam": {"optimizer": "adam", "momentum": 0.5},
        "loss='hinge' is unknown": {"loss": "hinge"},
        "bias=True has no closed form": {"bias": True},
        "cross entropy with layers=2 has no closed form": {"loss": "ce", "layers": [2]},
    }.items(),
)
def test_bad_options(match, options):
    with pytest.raises(ConfigError, match=match):
        DeepLinear(**{**asdict(SMALL), **options})


def test_training_that_diverges_says_so():
    with pytest.raises(ConfigError, match=r"lr=50\.0 made layers=1 diverge"):
        last(replace(SMALL, lr=50.0), 1)


def test_more_digits_than_there_are():
    with pytest.raises(ConfigError, match="more digits than there are"):
        last(replace(SMALL, features="mlp", counts=[500, 5]), 1)


def test_a_strong_ridge_makes_every_class_vanish():
    settings = replace(SMALL, lambda_w=0.5, lambda_h=0.5, steps=300)
    assert judge(settings, expect(settings, 2), last(settings, 2)) == "every class vanished, as it must"


def test_ties_at_the_cut_and_widths_without_an_etf_are_not_promised():
    assert "tie" in expect(replace(SMALL, width=3), 1).caveat
    assert not expect(replace(SMALL, width=2), 1).caveat
    assert "K-1" in expect(replace(SMALL, counts=[5] * 4, bias=True, width=2), 1).caveat
