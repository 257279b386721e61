import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import ConfigError
from fedloge.etf import geometry, simplex_etf, solve_adam, sparse_mask, sse_c, sse_loss


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("num_classes", "angle"), [(10, 96.379), (100, 90.579), (1000, 90.057)])
def test_simplex_etf_is_equiangular(num_classes, angle):
    found = geometry(simplex_etf(num_classes, 1024, rng()))
    assert found.angle_mean == pytest.approx(angle, abs=1e-3)
    assert found.angle_var < 1e-12
    assert found.norm_mean == pytest.approx(1)
    assert found.norm_var < 1e-24


def test_gram_matrix_of_the_etf():
    """M Mᵀ = C/(C-1) (I - 11ᵀ/C), also at the smallest possible dimension d = C-1."""
    frame = simplex_etf(5, 4, rng())
    torch.testing.assert_close(frame @ frame.T, 5 / 4 * (torch.eye(5).double() - 1 / 5))


@settings(max_examples=50, deadline=None)
@given(num_classes=st.integers(2, 30), extra=st.integers(0, 60), beta=st.floats(0, 0.6), seed=st.integers(0, 2**31))
def test_mask_has_exactly_the_asked_zeros(num_classes, extra, beta, seed):
    dim = num_classes + 10 + extra
    mask = sparse_mask(num_classes, dim, beta, rng(seed))
    assert int((~mask).sum()) == math.floor(beta * dim * num_classes + 1e-9)
    assert int(mask.sum(1).min()) >= 2


def test_mask_count_is_not_spoiled_by_rounding():
    """0.7 * 100 is 70, although 0.7 * 10 * 10 is 69.99999999999999 or 70 depending on the order."""
    assert int((~sparse_mask(10, 10, 0.7, rng())).sum()) == 70


@pytest.mark.parametrize("solver", ["alternating", "adam"])
def test_sse_c_keeps_its_zeros_and_is_nearly_equiangular(solver):
    frame = sse_c(10, 64, beta=0.6, gamma=0.1, solver=solver, generator=rng())
    assert torch.equal(frame.weight == 0, ~frame.mask)
    assert int((frame.weight == 0).sum()) == 384
    norms = frame.weight.norm(dim=1)
    assert float((norms - 0.1).abs().max()) < 0.001
    assert frame.geometry.max_cos_error < 0.02


def test_beta_zero_is_the_dense_etf():
    frame = sse_c(10, 64, beta=0, gamma=2.5, generator=rng())
    assert bool(frame.mask.all())
    torch.testing.assert_close(frame.weight.norm(dim=1), torch.full((10,), 2.5))
    assert frame.geometry.max_cos_error < 1e-9


def test_same_generator_same_frame():
    first, second = (sse_c(10, 32, generator=rng(5)).weight for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, sse_c(10, 32, generator=rng(6)).weight)


def test_loss_on_paper():
    """Two orthogonal rows of norms 3 and 4, γ = 1: (3-1)² + (4-1)² minus the mean angle, π/2."""
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    loss = sse_loss(weight, torch.ones(2, 2, dtype=torch.bool), gamma=1.0)
    assert float(loss) == pytest.approx(13 - math.pi / 2, abs=1e-6)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_default_solver_beats_the_released_geometry(num_classes):
    """The released Adam ends at an angle variance of 0.004 (C = 10) and 0.043 (C = 100) square degrees."""
    frame = sse_c(num_classes, 512, beta=0.6, gamma=0.1, generator=rng())
    assert frame.geometry.angle_var < 1e-6
    assert frame.geometry.norm_mean == pytest.approx(0.1)


@pytest.mark.slow
def test_adam_follows_the_released_trace(reference):
    """The masks differ by the draw, which moves the first loss by ±0.2; both then reach the same end."""
    released = reference("sse_c_traces")["traces"]["a_ours"]
    start, mask = simplex_etf(10, 512, rng()), sparse_mask(10, 512, 0.6, rng(1))
    weight, trace = solve_adam(start, mask, gamma=0.1)
    gaps = [abs(ours - theirs) for ours, theirs in zip(trace, released["loss"], strict=True)]
    assert max(gaps) < 0.3
    assert max(gaps[15:]) < 0.01
    final = geometry(weight)
    assert final.angle_mean == pytest.approx(released["final"]["angle_mean_deg"], abs=0.005)
    assert final.angle_var == pytest.approx(released["final"]["angle_var"], abs=0.002)
    assert final.norm_mean == pytest.approx(released["final"]["norm_mean"], abs=0.001)


def test_too_few_dimensions_are_refused_with_a_remedy():
    with pytest.raises(ConfigError, match=r"out_features=20 is too small for 100 .* 99 .*sse_frame=closest"):
        sse_c(100, 20, generator=rng())


def test_closest_frame_is_more_equiangular_than_a_random_one():
    """For C = 30 in d = 10 no unit frame has a largest cosine below the Welch bound, 0.262 in absolute value."""
    frame = sse_c(30, 10, beta=0, gamma=1, frame="closest", generator=rng())
    random = torch.nn.functional.normalize(torch.randn(30, 10, generator=rng()))
    largest = [float((w @ w.T).fill_diagonal_(-1).max()) for w in (frame.weight, random)]
    assert largest[0] < 0.5 * largest[1]


@pytest.mark.parametrize(("option", "value"), [("beta", 1.0), ("beta", -0.1), ("gamma", 0.0), ("gamma", math.nan)])
def test_bad_values_name_the_option(option, value):
    with pytest.raises(ConfigError, match=rf"model\.{option}="):
        sse_c(10, 64, **{option: value}, generator=rng())


def test_too_sparse_is_refused():
    with pytest.raises(ConfigError, match=r"model\.beta=0.9 leaves fewer than 2"):
        sse_c(10, 16, beta=0.9, generator=rng())
