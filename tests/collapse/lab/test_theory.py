"""The closed forms against published numbers, against autograd, and against each other."""

import math

import pytest
import torch

from fedloge import collapse
from fedloge.collapse.lab.theory import collapse_ratio, metastable_ratio
from fedloge.errors import ConfigError

COUNTS = (200, 100, 50, 50)


def objective(weights, means, counts, lambdas, lambda_h):
    """The squared error at class means [d, K] that stand for all their samples."""
    n = torch.tensor(counts, dtype=torch.float64)
    outputs = torch.linalg.multi_dot([*reversed(weights), means]) if len(weights) > 1 else weights[0] @ means
    error = ((outputs - torch.eye(len(n), dtype=torch.float64)).square().sum(0) * n).sum() / (2 * n.sum())
    ridge = sum(value / 2 * weight.square().sum() for value, weight in zip(lambdas, weights, strict=True))
    return error + ridge + lambda_h / 2 * (means.square().sum(0) * n).sum()


def construct(frame, dim, generator):
    """Layers W_1 [d, d], …, W_M [K, d] and class means H [d, K] that realise a frame in random directions, float64."""
    alive = (~frame.collapsed).nonzero().flatten()
    shape = dim, len(alive)
    bases = [
        torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0] for _ in range(frame.layers)
    ]
    ends = [*bases, frame.directions[:, alive]]
    values = frame.singular_values[:, alive]
    weights = [ends[m + 1] * values[m] @ ends[m].T for m in range(frame.layers)]
    p = frame.p[alive]
    return weights, bases[0] * (p.sqrt() / (p + frame.a)) @ frame.directions[:, alive].T


def test_known_frames():
    one = collapse.orthogonal_frame(COUNTS, 1, 5e-4, 5e-4)
    assert one.weight_norms.tolist() == pytest.approx([3.73392, 3.13050, 2.62127, 2.62127], abs=6e-6)
    assert one.feature_norms.tolist() == pytest.approx([0.26403, 0.31305, 0.37070, 0.37070], abs=6e-6)
    assert one.loss == pytest.approx(0.0189421356, abs=6e-11)
    two = collapse.orthogonal_frame(COUNTS, 2, 5e-4, 5e-4)
    assert two.weight_norms.tolist() == pytest.approx([5.82517, 4.61273, 3.64757, 3.64757], abs=6e-6)
    assert two.feature_norms.tolist() == pytest.approx([0.17066, 0.21477, 0.27010, 0.27010], abs=6e-6)
    assert two.loss == pytest.approx(0.0133466140, abs=6e-11)


def test_one_layer_in_closed_form():
    """‖w_k‖² = √(n_kλ_H/λ_W) - Nλ_H and w_k = √(n_kλ_H/λ_W)·h_k."""
    lambda_w, lambda_h, N = 2e-3, 7e-4, sum(COUNTS)
    frame = collapse.orthogonal_frame(COUNTS, 1, lambda_w, lambda_h)
    ratio = [math.sqrt(n * lambda_h / lambda_w) for n in COUNTS]
    assert frame.weight_norms.square().tolist() == pytest.approx([r - N * lambda_h for r in ratio], rel=1e-12)
    assert (frame.weight_norms / frame.feature_norms).tolist() == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("lambdas", [(1e-3,), (1e-3, 4e-3), (1e-3,) * 3, (5e-4,) * 6])
def test_the_frame_is_a_stationary_point(lambdas):
    """Metrics at rounding error, gradient zero, balance between layers, and the loss formula."""
    frame = collapse.orthogonal_frame(COUNTS, len(lambdas), lambdas, 2e-4)
    weights, means = construct(frame, 16, torch.Generator().manual_seed(0))
    for tensor in (*weights, means):
        tensor.requires_grad_()
    loss = objective(weights, means, COUNTS, lambdas, 2e-4)
    loss.backward()
    assert max(float(tensor.grad.abs().max()) for tensor in (*weights, means)) < 1e-14
    assert loss.item() == pytest.approx(frame.loss, abs=1e-15)
    product = torch.linalg.multi_dot([*reversed(weights), torch.eye(16, dtype=torch.float64)]).detach()
    means = means.detach()
    for built, target in (
        (product @ product.T, frame.weight_gram),
        (means.T @ means, frame.feature_gram),
        (product @ means, frame.logits),
    ):
        assert float((built / built.norm() - target / target.norm()).norm()) < 1e-14
    n = torch.tensor(COUNTS, dtype=torch.float64)
    balance = 2e-4 * n * means.square().sum(0)
    for value, weight, theory in zip(lambdas, weights, frame.singular_values, strict=True):
        assert float((value * theory**2 - balance).abs().max()) < 1e-15
        assert torch.linalg.svdvals(weight.detach())[:4].tolist() == pytest.approx(sorted(theory.tolist())[::-1])


def test_features_of_the_frame_measure_as_collapsed():
    frame = collapse.orthogonal_frame(COUNTS, 2, 5e-4, 5e-4)
    _, means = construct(frame, 16, torch.Generator().manual_seed(0))
    labels = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))
    values = collapse.measure(means.T[labels], labels)
    assert max(values["nc1"], values["cdnv"]) < 1e-14


@pytest.mark.parametrize("layers", [1, 2])
def test_simplex_frame(layers):
    """Balanced with a bias: the Gram matrices are multiples of I - 11ᵀ/K, and the frame is stationary with b = 1/K."""
    frame = collapse.simplex_frame(4, 20, layers, 2e-3, 2e-3)
    centring = torch.eye(4, dtype=torch.float64) - 0.25
    for gram in (frame.weight_gram, frame.feature_gram, frame.logits):
        assert float((gram / gram.norm() - centring / centring.norm()).norm()) < 1e-14
    weights, means = construct(frame, 8, torch.Generator().manual_seed(0))
    bias = torch.full((4,), frame.bias, dtype=torch.float64, requires_grad=True)
    tensors = [tensor.requires_grad_() for tensor in (*weights, means)]
    product = torch.linalg.multi_dot([*reversed(tensors[:-1]), torch.eye(8, dtype=torch.float64)])
    outputs = product @ means + bias.unsqueeze(1)
    ridge = 1e-3 * (sum(tensor.square().sum() for tensor in tensors[:-1]) + 20 * means.square().sum())
    loss = (outputs - torch.eye(4, dtype=torch.float64)).square().sum() / 8 + ridge
    loss.backward()
    assert loss.item() == pytest.approx(frame.loss, abs=1e-15)
    assert max(float(tensor.grad.abs().max()) for tensor in (*tensors, bias)) < 1e-14


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_x_jumps_at_the_threshold(layers):
    """x goes from 0 to (M-1)^{1/M} where n_k passes b/threshold; λ_H is chosen so that this happens at n = 1000."""
    counts = [1000, 1000]

    def strength(change):
        b = 1000 * collapse_ratio(layers) * (1 + change)
        lambda_h = (b / (layers * 2000)) ** layers / (2000 * 1e-3**layers)
        return float(collapse.orthogonal_frame(counts, layers, 1e-3, lambda_h).x[0])

    assert strength(1e-6) == 0
    assert strength(-1e-6) == pytest.approx((layers - 1) ** (1 / layers), rel=1e-5)


def test_thresholds():
    assert [collapse_ratio(m) for m in (1, 2, 3, 6)] == pytest.approx([1, 0.5, 0.529, 0.637], abs=5e-4)
    assert metastable_ratio(2) == pytest.approx(0.6495, abs=5e-5)


def test_one_layer_collapses_at_and_below_the_threshold():
    """N²λ_Wλ_H = 4 exactly."""
    frame = collapse.orthogonal_frame([10, 5, 4, 1], 1, 0.1, 0.1)
    assert frame.collapsed.tolist() == [False, False, True, True]


def test_metastable_branch():
    """Between the two ratios a non-zero root exists, whose loss is higher than that of zero."""
    counts, b = [100, 100], 60.0  # b/n = 0.6, between 0.5 and 0.6495
    lambda_h = (b / 400) ** 2 / (200 * 1e-3**2)
    stable, other = (collapse.orthogonal_frame(counts, 2, 1e-3, lambda_h, branch=x) for x in ("global", "metastable"))
    assert stable.collapsed.all()
    assert not other.collapsed.any()
    assert other.loss > stable.loss
    weights, means = construct(other, 4, torch.Generator().manual_seed(0))
    tensors = [tensor.requires_grad_() for tensor in (*weights, means)]
    loss = objective(tensors[:2], tensors[2], counts, (1e-3, 1e-3), lambda_h)
    loss.backward()
    assert loss.item() == pytest.approx(other.loss, abs=1e-12)
    assert max(float(tensor.grad.abs().max()) for tensor in tensors) < 1e-12


def test_narrow_layers_keep_the_largest_classes():
    frame = collapse.orthogonal_frame([50, 200, 50, 100], 2, 5e-4, 5e-4, width=2)
    assert frame.collapsed.tolist() == [True, False, True, False]
    weights, means = construct(frame, 2, torch.Generator().manual_seed(0))
    assert objective(weights, means, [50, 200, 50, 100], (5e-4,) * 2, 5e-4).item() == pytest.approx(
        frame.loss, abs=1e-15
    )


@pytest.mark.parametrize(("layers", "exponent"), [(1, 1 / 4), (2, 1 / 3), (3, 3 / 8), (6, 3 / 7)])
def test_exponents_under_weak_regularisation(layers, exponent):
    """‖w_k‖ ∝ n_k^e and ‖μ_k‖ ∝ n_k^{-e} at λ = 1e-6; one layer in the limit λ → 0 as well."""
    assert collapse.norm_exponent(layers) == exponent
    lam = 1e-6
    frame = collapse.orthogonal_frame([10_000, 1000, 100], layers, lam, lam)
    n = torch.tensor([10_000, 1000, 100]).double().log()
    for norms, sign in ((frame.weight_norms, 1), (frame.feature_norms, -1)):
        slope = torch.linalg.lstsq(torch.stack([n, torch.ones(3)], 1).double(), norms.log().unsqueeze(1)).solution[0]
        assert float(slope) == pytest.approx(sign * exponent, abs=0.001)


def test_etf_losses():
    assert collapse.cross_entropy_etf(4, 10, 1, 5e-3, 5e-3).loss == pytest.approx(0.24300, abs=5e-6)
    assert collapse.cross_entropy_etf(6, 5, 2, 1e-3, 1e-3).loss == pytest.approx(0.05148, abs=5e-6)
    assert collapse.cross_entropy_etf(4, 5, 3, 1e-3, 1e-3).loss == pytest.approx(0.02623, abs=5e-6)


def test_etf_loss_of_a_ridge_that_kills_everything():
    assert collapse.cross_entropy_etf(4, 10, 2, 10.0, 10.0).loss == pytest.approx(math.log(4))


def test_seli_ratios():
    weight, feature = collapse.seli([40, 40, 4, 4])
    assert math.sqrt(weight[0, 0] / weight[2, 2]) == pytest.approx(1.4125, abs=5e-5)
    assert math.sqrt(feature[0, 0] / feature[2, 2]) == pytest.approx(0.6606, abs=5e-5)


def test_seli_of_balanced_classes_is_the_simplex():
    centring = torch.eye(5, dtype=torch.float64) - 0.2
    for gram in collapse.seli([7] * 5):
        torch.testing.assert_close(gram / gram.norm(), centring / centring.norm())


@pytest.mark.parametrize(
    ("match", "arguments"),
    {
        "layers=0 must be at least 1": {"layers": 0},
        "lambda_w=-0.001 must be positive": {"lambda_w": -1e-3},
        "lambda_h=-0.001 must be positive": {"lambda_h": -1e-3},
        "lambda_h=nan must be positive": {"lambda_h": math.nan},
        "fewer than two classes": {"counts": [5]},
        "empty class": {"counts": [5, 0]},
        "does not fit 2 layers": {"lambda_w": [1e-3], "layers": 2},
        "width=0": {"width": 0},
        "branch='best' is unknown": {"branch": "best"},
    }.items(),
)
def test_bad_input(match, arguments):
    with pytest.raises(ConfigError, match=match):
        collapse.orthogonal_frame(**{"counts": COUNTS, **arguments})
