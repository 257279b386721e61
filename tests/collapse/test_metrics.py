"""Properties of the metrics that hold exactly, or to a known order."""

import math

import pytest
import torch

from fedloge import collapse
from fedloge.collapse import metrics
from fedloge.errors import ConfigError
from fedloge.etf import simplex_etf

CLASSES, DIM = 5, 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def cloud(classes=CLASSES, dim=DIM, sizes=(9, 4, 7, 5, 6), noise=0.6, seed=0):
    """Noisy features in random order, a classifier with bias, and labels."""
    labels = torch.arange(classes).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator(seed + 1))]
    features = randn(classes, dim, seed=seed)[labels] + noise * randn(len(labels), dim, seed=seed + 2)
    return features, labels, (randn(classes, dim, seed=seed + 3), randn(classes, seed=seed + 4))


def close(first, second, without=()):
    assert first.keys() == second.keys()
    for name in first.keys() - set(without):
        assert first[name] == pytest.approx(second[name], rel=1e-12, abs=1e-12), name


# 1 and 2: simplex ETFs ---------------------------------------------------------------------------------------


def test_an_exact_etf_has_collapsed():
    frame = simplex_etf(CLASSES, DIM, generator())
    shift = randn(DIM, seed=1)
    weight = 3 * frame
    values = collapse.measure(
        (2.5 * frame + shift).repeat(4, 1), torch.arange(CLASSES).repeat(4), (weight, -weight @ shift)
    )
    assert max(values[name] for name in ("nc1", "cdnv", "gnc2_var")) < 1e-28
    for name in ("equinorm", "equiangular", "angle_error", "etf_error", "self_duality", "etf_duality"):
        assert values[name] < 1e-14, name
    assert values["gnc2_mean"] == pytest.approx(collapse.gnc2_of_etf(CLASSES), abs=1e-14)
    assert values["unc3_var"] == pytest.approx(0, abs=1e-28)
    assert values["nc3_cosine"] == pytest.approx(1)
    assert values["nc4"] == 1


def test_nc4_of_a_shifted_etf_needs_the_bias():
    """Without b = -Wμ_G the classifier and the nearest mean disagree."""
    frame = simplex_etf(10, DIM, generator())
    features, labels = (frame + 3 * randn(DIM, seed=1)).repeat(4, 1), torch.arange(10).repeat(4)
    assert collapse.measure(features, labels, frame)["nc4"] < 0.5


def test_etf_with_isotropic_noise():
    """Radius ρ and noise σ: NC1 → σ²(C-1)²/(Cρ²), CDNV → dσ²(C-1)/(2Cρ²), within a hundredth at 20,000 a class."""
    C, rho, sigma = CLASSES, 2.0, 0.3
    labels = torch.arange(C).repeat(20_000)
    features = rho * simplex_etf(C, DIM, generator())[labels] + sigma * randn(len(labels), DIM, seed=1)
    values = collapse.measure(features, labels)
    assert values["nc1"] == pytest.approx(sigma**2 * (C - 1) ** 2 / (C * rho**2), rel=0.01)
    assert values["cdnv"] == pytest.approx(DIM * sigma**2 * (C - 1) / (2 * C * rho**2), rel=0.01)


# 3: invariances ----------------------------------------------------------------------------------------------


def test_rotation():
    features, labels, (weight, bias) = cloud()
    rotation = torch.linalg.qr(randn(DIM, DIM, seed=9))[0]
    rotated = collapse.measure(features @ rotation, labels, (weight @ rotation, bias))
    close(collapse.measure(features, labels, (weight, bias)), rotated)


def test_translation_with_the_bias_that_undoes_it():
    features, labels, (weight, bias) = cloud()
    shift = 5 * randn(DIM, seed=9)
    plain = collapse.measure(features, labels, (weight, bias))
    close(plain, collapse.measure(features + shift, labels, (weight, bias - weight @ shift)))
    moved = collapse.measure(features + shift, labels, (weight, bias))
    close(plain, moved, without=["nc4"])
    assert moved["nc4"] != plain["nc4"]


def test_scale_but_not_of_cdnv_with_the_fourth_power():
    features, labels, (weight, bias) = cloud()
    plain = collapse.measure(features, labels, (weight, bias))
    close(plain, collapse.measure(7 * features, labels, (weight, 7 * bias)))
    fourth = collapse.measure(features, labels, cdnv_power=2)["cdnv"]
    assert collapse.measure(7 * features, labels, cdnv_power=2)["cdnv"] == pytest.approx(fourth / 49)


def test_names_of_the_classes():
    features, labels, (weight, bias) = cloud()
    order = torch.tensor([3, 0, 4, 1, 2])
    renamed = collapse.measure(features, order.argsort()[labels], (weight[order], bias[order]))
    close(collapse.measure(features, labels, (weight, bias)), renamed)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_order_and_size_of_batches(size):
    features, labels, classifier = cloud()
    order = torch.randperm(len(labels), generator=generator(8))
    batches = list(zip(features[order].split(size), labels[order].split(size), strict=True))
    streamed = collapse.measure_batches(lambda: batches, classifier, num_classes=CLASSES)
    close(collapse.measure(features, labels, classifier), streamed)


def test_clients_merge_exactly():
    """Each client keeps its images; counts and sums add, a client without some class included."""
    features, labels, (weight, bias) = cloud()
    by_class = labels.argsort(stable=True)
    clients = [(features[part], labels[part]) for part in (by_class[:11], by_class[11:12], by_class[12:])]
    firsts = [collapse.ClassMeanMetric(CLASSES, DIM) for _ in clients]
    for metric, data in zip(firsts, clients, strict=True):
        metric.update(*data)
    for metric in firsts[1:]:
        firsts[0].merge_state(metric)
    means = firsts[0].compute()
    spreads = [collapse.SpreadMetric(means) for _ in clients]
    nc4s = [collapse.NearestMeanMetric(means, weight, bias) for _ in clients]
    for metric, data in zip([*spreads, *nc4s], clients * 2, strict=True):
        metric.update(*data)
    for metrics_ in (spreads, nc4s):
        for metric in metrics_[1:]:
            metrics_[0].merge_state(metric)
    merged = collapse.report(means, spreads[0].compute(), weight, nc4s[0].compute())
    close(collapse.measure(features, labels, (weight, bias)), merged)


# 4: streaming NC1 and its traps ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dim", [3, DIM])
def test_nc1_is_the_dense_one(dim, weighted):
    features, labels, _ = cloud(dim=dim)
    counts = labels.bincount().double()
    means = torch.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    share = counts / counts.sum() if weighted else torch.full_like(counts, 1 / CLASSES)
    centred = means - share @ means
    residuals = features - means[labels]
    within, between = residuals.T @ residuals / len(labels), centred.T @ centred / CLASSES
    dense = torch.trace(within @ torch.linalg.pinv(between, hermitian=True)) / CLASSES
    assert collapse.measure(features, labels, weighted=weighted)["nc1"] == pytest.approx(float(dense), rel=1e-10)


def test_small_variances_far_from_the_origin_survive_float32():
    """E‖h‖² - ‖μ‖² in float32 would give 0: the true variance is 1e-8 beside a squared mean of 1e4."""
    labels = torch.arange(2).repeat(500)
    features = 100 + labels.float().unsqueeze(1) + 1e-4 * randn(1000, 1).float()
    mean = features.double().view(500, 2).mean(0)
    exact = (features.double().view(500, 2) - mean).square().mean(0).sum() / 2 / (mean[1] - mean[0]) ** 2
    assert collapse.measure(features, labels)["cdnv"] == pytest.approx(float(exact), rel=1e-9)


def test_class_means_of_very_different_norms():
    """Norms spread a thousandfold: rank and value are still those of exact arithmetic, σ²·Σ 1/s² /C."""
    lengths = torch.tensor([1000.0, 1.0, 30.0, 1.0], dtype=torch.float64)
    means = torch.diag(lengths)
    labels = torch.arange(4).repeat(2)
    features = means[labels] + 0.1 * torch.cat([torch.ones(4, 1), -torch.ones(4, 1)]) * torch.eye(4)[0]
    centred = means - means.mean(0)
    inverse = torch.linalg.pinv(centred.T @ centred / 4, rcond=1e-14)
    assert collapse.measure(features, labels)["nc1"] == pytest.approx(float(0.01 * inverse[0, 0] / 4), rel=1e-6)


# 7: floors and references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "dim"), [(10, 3), (40, 7), (100, 64)])
def test_etf_error_stays_above_its_floor(classes, dim):
    """A tight frame of equal norms with d directions meets the floor; nothing goes below."""
    random = collapse.measure(randn(classes, dim), torch.arange(classes))
    assert random["etf_error"] > random["etf_floor"] > 0
    centred = torch.linalg.svd(randn(classes, dim) - randn(classes, dim).mean(0), full_matrices=False)[0]
    best = collapse.measure(centred, torch.arange(classes))
    assert best["etf_error"] == pytest.approx(best["etf_floor"], abs=1e-12)


def test_floor_of_the_published_models():
    assert [round(collapse.etf_floor(29_233, d), 3) for d in (64, 1024)] == [1.381, 1.275]
    assert collapse.etf_floor(10, 9) == 0


@pytest.mark.parametrize("dim", [64, 128])
def test_uniformity_of_random_directions(dim):
    values = metrics.gnc2(means_of(randn(1500, dim)))
    mean, variance = collapse.gnc2_of_random(dim)
    assert values["gnc2_mean"] == pytest.approx(mean, abs=0.002)
    assert values["gnc2_var"] == pytest.approx(variance, rel=0.1)


def test_tiles_cover_every_pair_once(monkeypatch):
    features, labels, classifier = cloud()
    whole = collapse.measure(features, labels, classifier)
    monkeypatch.setattr(metrics.tiles, "__defaults__", (2,))
    close(whole, collapse.measure(features, labels, classifier))


def test_unc3_is_of_cosines():
    """Doubling one row of W changes the products w·A but no cosine."""
    features, labels, (weight, bias) = cloud()
    plain = collapse.measure(features, labels, (weight, bias))
    weight = weight.clone()
    weight[0] *= 2
    doubled = collapse.measure(features, labels, (weight, bias))
    for name in ("nc3_cosine", "unc3_var", "unc3_cv"):
        assert doubled[name] == pytest.approx(plain[name])
    assert doubled["self_duality"] != pytest.approx(plain["self_duality"])


# 8: degenerate classes ---------------------------------------------------------------------------------------


def means_of(points):
    metric = collapse.ClassMeanMetric(len(points), points.shape[1])
    metric.update(points, torch.arange(len(points)))
    return metric.compute()


def test_empty_singleton_and_coincident_classes():
    """Classes 5 and 7 are empty, 6 has one sample, 4 lies exactly where 3 does."""
    features, labels, _ = cloud()
    centre = features[labels == 3].mean(0)
    features = torch.cat([features[labels != 4], centre.repeat(3, 1), randn(1, DIM, seed=5)])
    labels = torch.cat([labels[labels != 4], torch.tensor([4, 4, 4, 6])])
    values = collapse.measure(features, labels, (randn(8, DIM, seed=6), None))
    assert {name: values[name] for name in ("classes", "samples", "empty_classes")} == {
        "classes": 6,
        "samples": len(labels),
        "empty_classes": 2,
    }
    assert values["singleton_classes"] == 1
    assert values["coincident_means"] == values["coincident_directions"] == 2
    assert all(math.isfinite(value) for value in values.values())
    rare = collapse.measure(features, labels, min_count=2)
    assert (rare["classes"], rare["rare_classes"], rare["singleton_classes"]) == (5, 1, 0)


def test_empty_classes_do_not_enter_the_global_mean():
    features, labels, (weight, bias) = cloud()
    apart = torch.tensor([0, 2, 3, 5, 8])
    spread_weight, spread_bias = torch.zeros(9, DIM, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    spread_weight[apart], spread_bias[apart] = weight, bias
    plain = collapse.measure(features, labels, (weight, bias))
    close(plain, collapse.measure(features, apart[labels], (spread_weight, spread_bias)), without=["empty_classes"])


def test_a_class_at_the_global_mean_has_no_direction():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    values = collapse.measure(points.repeat(2, 1) + 0.1 * randn(6, 2), torch.arange(3).repeat(2))
    assert values["zero_means"] == 0
    values = collapse.measure(points, torch.arange(3), points)
    assert values["zero_means"] == 1
    assert values["equiangular"] == 0
    assert all(math.isfinite(value) for name, value in values.items() if name != "cdnv_log")


def test_what_has_no_meaning_is_nan():
    """All means coincide: no direction, no angle; the counts say why."""
    values = collapse.measure(torch.ones(6, 2), torch.arange(3).repeat(2))
    assert math.isnan(values["nc1"])
    assert math.isnan(values["etf_error"])
    assert values["zero_means"] == values["coincident_means"] == 3


# Bad input ---------------------------------------------------------------------------------------------------


def bad(match, *args, **kwargs):
    with pytest.raises(ConfigError, match=match):
        collapse.measure(*args, **kwargs)


def test_bad_input_says_what_to_change():
    features, labels, (weight, bias) = cloud()
    bad("labels=30 of them do not fit 31 features", features, labels[1:])
    broken = features.clone()
    broken[4, 2] = torch.nan
    bad("features='row 4' holds NaN", broken, labels)
    bad("holds NaN", torch.where(broken.isnan(), torch.inf, broken), labels)
    bad("num_classes=1 must be at least 2", features, torch.zeros_like(labels))
    bad(r"leave 1 class\(es\)", features, torch.zeros_like(labels), num_classes=3)
    bad(r"leave 1 class\(es\) with at least 9", features, labels, min_count=9)
    bad("float matrix", features[:, :0], labels)
    bad("float matrix", features[:, 0], labels)
    bad("float matrix", features.long(), labels)
    bad("class numbers", features, labels.double())
    bad("num_classes=0 must be", features[:0], labels[:0])
    bad("outside of 0 to 2", features, labels, num_classes=3)
    bad("labels=-1 is negative", features, labels - 1)
    bad("cdnv_power=3", features, labels, cdnv_power=3)
    bad("min_count=0", features, labels, min_count=0)
    bad(r"weight=\(5, 11\)", features, labels, weight[:, 1:])
    bad(r"bias=\(4,\)", features, labels, (weight, bias[1:]))
    bad("weight=.*NaN", features, labels, weight * torch.nan)
    bad("12 columns", features, labels, weight, heldout=(features[:, 1:], labels))


def test_passes_over_different_data_are_refused():
    features, labels, _ = cloud()
    parts = iter([[(features, labels)], [(features[1:], labels[1:])]])
    with pytest.raises(ConfigError, match="Both passes"):
        collapse.measure_batches(lambda: next(parts), num_classes=CLASSES)
    with pytest.raises(ConfigError, match="batches=0"):
        collapse.measure_batches(lambda: [], num_classes=CLASSES)
