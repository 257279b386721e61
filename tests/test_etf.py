import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import ConfigError
from fedloge.etf import (
    closest_frame,
    geometry,
    simplex_etf,
    solve_adam,
    solve_alternating,
    sparse_mask,
    sse_c,
    sse_loss,
)


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


def released_start(seed, num_classes=10, dim=512):
    """Eq. 2 with U from orthonormalised *uniform* draws, which is what the released losses follow.

    Any rotation is an ETF, but this one has flatter entries and its first class leans to one sign. Its losses agree
    with the released ones at every step; those of Gaussian draws lie 0.08 to 0.09 higher at step 500, where the
    deviation between draws is 0.02.
    """
    uniform = torch.rand(dim, num_classes, generator=rng(seed), dtype=torch.float64)
    U = torch.linalg.qr(uniform)[0]
    return (math.sqrt(num_classes / (num_classes - 1)) * U @ (torch.eye(num_classes).double() - 1 / num_classes)).T


def test_adam_descends_as_the_released_trace(reference):
    """The draw alone moves the first loss by ±0.07 (a deviation), that of step 500 by 0.013, of step 1000 by 0.002."""
    released = reference("sse_c_traces")["traces"]
    _, trace = solve_adam(released_start(0), sparse_mask(10, 512, 0.6, rng(1)), 0.1, steps=1101)
    early, middle, late = (
        [abs(trace[i] - run["loss"][i]) for run in released.values() for i in steps]
        for steps in (range(5), range(5, 10), range(10, 12))
    )
    assert max(early) < 0.25
    assert max(middle) < 0.04
    assert max(late) < 0.01


@pytest.mark.slow
def test_adam_ends_at_the_released_geometry(reference):
    """Norms overshoot γ by the same 0.57 %; the angle variance varies by a third of itself between draws."""
    released = reference("sse_c_traces")["traces"]
    weight, trace = solve_adam(released_start(0), sparse_mask(10, 512, 0.6, rng(1)), 0.1)
    final = geometry(weight)
    for run in released.values():
        assert max(abs(a - b) for a, b in zip(trace[10:], run["loss"][10:], strict=True)) < 0.01
        assert final.angle_mean == pytest.approx(run["final"]["angle_mean_deg"], abs=0.002)
        assert run["final"]["angle_var"] / 3 < final.angle_var < run["final"]["angle_var"] * 3
        assert final.norm_mean == pytest.approx(run["final"]["norm_mean"], abs=1e-4)
        assert final.norm_var < 2e-8


def test_adam_without_a_trace():
    weight, trace = solve_adam(
        simplex_etf(3, 8, rng()), torch.ones(3, 8, dtype=torch.bool), 0.1, steps=2, trace_every=None
    )
    assert trace == []
    assert weight.dtype == torch.float32


def test_a_mask_too_tight_for_an_etf_still_gives_a_better_frame_than_adam():
    """β = 0.9, C = 100: 5120 entries for 5050 conditions. Adam ends at an angle variance of 0.18 square degrees."""
    start, mask = simplex_etf(100, 512, rng()), sparse_mask(100, 512, 0.9, rng(1))
    found = geometry(solve_alternating(start, mask, 0.1, max_iterations=300))
    assert found.angle_var < 0.1


def test_two_classes_are_opposite_even_in_one_dimension():
    frame = sse_c(2, 1, beta=0, gamma=3, generator=rng())
    assert sorted(frame.weight.flatten().tolist()) == pytest.approx([-3, 3])


def test_too_few_dimensions_are_refused_with_a_remedy():
    with pytest.raises(ConfigError, match=r"dim=20 is too small for 100 .* 99 .*frame='closest'"):
        sse_c(100, 20, generator=rng())


def test_closest_frame_is_more_equiangular_than_a_random_one():
    """For C = 30 in d = 10 no unit frame has a largest cosine below the Welch bound, 0.262 in absolute value."""
    frame = sse_c(30, 10, beta=0, gamma=1, frame="closest", generator=rng())
    random = torch.nn.functional.normalize(torch.randn(30, 10, generator=rng()))
    largest = [float((w @ w.T).fill_diagonal_(-1).max()) for w in (frame.weight, random)]
    assert largest[0] < 0.5 * largest[1]


@pytest.mark.parametrize(
    ("num_classes", "dim", "cosine"),
    [(4, 2, 0), (5, 2, math.cos(math.radians(72))), (6, 3, 0), (12, 3, 1 / math.sqrt(5)), (10, 8, 0)],
)
def test_closest_frame_finds_the_known_best_ones(num_classes, dim, cosine):
    """Square, pentagon, octahedron, icosahedron, and Rankin's bound for d+1 < C <= 2d."""
    frame = closest_frame(num_classes, dim, rng())
    torch.testing.assert_close(frame.norm(dim=1), torch.ones(num_classes).double())
    assert float((frame @ frame.T).fill_diagonal_(-1).max()) == pytest.approx(cosine, abs=0.005)


@pytest.mark.parametrize(("solver", "norm_gap"), [("alternating", 1e-6), ("adam", 0.01)])
def test_sparse_closest_frame_keeps_its_zeros(solver, norm_gap):
    """About eight entries a class: here the paper's loss trades norm for angle, by up to a tenth of γ."""
    frame = sse_c(30, 16, beta=0.5, gamma=0.1, frame="closest", solver=solver, generator=rng())
    assert torch.equal(frame.weight == 0, ~frame.mask)
    assert int((~frame.mask).sum()) == 240
    assert float((frame.weight.norm(dim=1) - 0.1).abs().max()) < norm_gap
    unit = torch.nn.functional.normalize(frame.weight)
    assert float((unit @ unit.T).fill_diagonal_(-1).max()) < 0.2


@pytest.mark.parametrize(("option", "value"), [("beta", 1.0), ("beta", -0.1), ("gamma", 0.0), ("gamma", math.nan)])
def test_bad_values_name_the_option(option, value):
    with pytest.raises(ConfigError, match=rf"^{option}="):
        sse_c(10, 64, **{option: value}, generator=rng())


def test_too_sparse_is_refused():
    with pytest.raises(ConfigError, match=r"^beta=0.9 leaves fewer than 2"):
        sse_c(10, 16, beta=0.9, generator=rng())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver": "sgd"}, r"^solver='sgd'.*alternating, adam"),
        ({"frame": "any"}, "^frame='any'"),
        ({"num_classes": 1}, "num_classes=1"),
    ],
)
def test_unknown_choices_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        sse_c(**({"num_classes": 10, "dim": 64} | options), generator=rng())


def test_mask_refuses_a_bad_beta():
    with pytest.raises(ConfigError, match=r"^beta=1\.0 must lie in"):
        sparse_mask(10, 64, 1.0, rng())
