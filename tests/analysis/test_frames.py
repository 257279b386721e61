"""Fig. 7, Table 6 and norms against class sizes, on heads whose numbers are known in closed form."""

import math

import pytest
import torch

from fedloge.analysis.frames import (
    cardinality,
    client_cardinality,
    client_frames,
    cosines,
    equiangular,
    frame,
    norm_rows,
)
from fedloge.etf import simplex_etf, sse_c


def etf(num_classes, dim):
    return simplex_etf(num_classes, dim, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("num_classes", "degrees"), [(10, 96.379), (100, 90.579)])
def test_an_etf_has_its_angle_everywhere(num_classes, degrees):
    found, ideal = frame(3 * etf(num_classes, 128)), equiangular(num_classes)
    assert found["norm_mean"] == pytest.approx(3)
    assert found["angle_mean"] == pytest.approx(degrees, abs=5e-4)
    assert found["angle_mean"] == pytest.approx(ideal["angle"])
    assert found["cos_max"] == pytest.approx(ideal["cos"]) == pytest.approx(-1 / (num_classes - 1))
    assert max(found["norm_var"], found["angle_var"], found["cos_std"]) < 1e-12


def test_a_sparse_etf_has_nearly_the_same():
    sparse = sse_c(10, 64, beta=0.6, gamma=0.5, generator=torch.Generator().manual_seed(0)).weight.double()
    assert frame(sparse)["angle_mean"] == pytest.approx(equiangular(10)["angle"], abs=1e-3)
    assert frame(sparse)["norm_mean"] == pytest.approx(0.5)


def test_three_rows_by_hand():
    """Rows at 0°, 60° and 120° with norms 1, 2 and 3: angles 60, 60 and 120, variance 800; norm variance 2/3."""
    angles = torch.tensor([0, math.pi / 3, 2 * math.pi / 3], dtype=torch.float64)
    weight = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [2.0], [3.0]])
    found = frame(weight)
    assert found["angle_mean"] == pytest.approx(80)
    assert found["angle_var"] == pytest.approx(800)
    assert found["norm_var"] == pytest.approx(2 / 3)
    assert (found["cos_mean"], found["cos_max"]) == (pytest.approx(1 / 6), pytest.approx(0.5))


def test_heads_of_clients_are_averaged():
    weights = [etf(5, 8), 3 * etf(5, 8)]
    found, matrix = client_frames(weights)
    assert found["norm_mean"] == pytest.approx(2)
    assert found["norm_var"] == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(matrix, cosines(weights[0]))


def test_a_power_law_is_found():
    counts = torch.tensor([1000, 300, 0, 50, 7])
    weight = torch.zeros(5, 3, dtype=torch.float64)
    weight[:, 1] = 2 * counts.double() ** 0.3
    rows = norm_rows(counts, weight)
    assert [row["class"] for row in rows] == [0, 1, 3, 4]
    found = cardinality(rows)
    assert found["exponent"] == pytest.approx(0.3)
    assert found["spearman"] == pytest.approx(1)
    assert found["theory"] == 0.25


def test_clients_with_nothing_to_fit_are_left_out():
    """Two clients with exponents 0.2 and 0.4; one with a single class, one with equal counts."""
    sizes = [3, 9, 27]
    clients = [[{"class": c, "n": n, "norm": n**power} for c, n in enumerate(sizes)] for power in (0.2, 0.4)]
    clients += [[{"class": 0, "n": 5, "norm": 1.0}], [{"class": c, "n": 4, "norm": 1.0 + c} for c in range(3)]]
    found = client_cardinality(clients)
    assert found["clients"] == 2
    assert found["exponent_mean"] == pytest.approx(0.3)
    assert found["exponent_std"] == pytest.approx(0.1)
    assert math.isnan(cardinality(clients[2])["exponent"])
