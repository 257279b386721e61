import io

import numpy as np
import pytest
from PIL import Image

from fedloge.plotting import COLOURS, MAX_NAMES, heat_map, new_figure, norm_panel, percent, png, signed, thin


def test_axes_are_in_row_order():
    figure, axes = new_figure(2, 3, 6, 4)
    assert [ax.get_subplotspec().num1 for ax in axes] == list(range(6))
    assert tuple(figure.get_size_inches()) == (6, 4)


def test_a_png_may_have_few_colours():
    figure, (ax,) = new_figure(1, 1, 2, 1)
    for colour in COLOURS:
        ax.plot([0, 1], [0, 1], color=colour)
    full, reduced = (Image.open(io.BytesIO(png(figure, dpi=50, colours=count))) for count in (None, 8))
    assert full.size == reduced.size == (100, 50)
    assert len(reduced.getcolors()) <= 8 < len(full.getcolors())


def test_the_panel_of_norms_draws_the_fit_through_the_geometric_means():
    """Norms n^0.5 exactly: the line of the fit meets them; the closed form n^0.25 crosses at the geometric mean."""
    rows = [{"class": c, "n": n, "norm": n**0.5} for c, n in enumerate((1, 4, 16))] + [{"class": 3, "n": 0, "norm": 1}]
    _, (ax,) = new_figure(1, 1, 4, 4)
    norm_panel(ax, rows, {"theory": 0.25, "exponent": 0.5, "spearman": 1.0}, "psi")
    theory, fit, points = ax.get_lines()
    np.testing.assert_allclose(points.get_ydata(), [1, 2, 4])
    np.testing.assert_allclose(fit.get_ydata()[[0, -1]], [1, 4])
    np.testing.assert_allclose(theory.get_ydata()[[0, -1]], [2 * 4**-0.25, 2 * 4**0.25])
    assert fit.get_label() == "fit: n^0.50, ρ = +1.00"


@pytest.mark.parametrize(("count", "named"), [(MAX_NAMES, MAX_NAMES), (MAX_NAMES + 1, 0)])
def test_a_heat_map_names_classes_where_there_is_room(count, named):
    _, (ax,) = new_figure(1, 1, 4, 4)
    assert heat_map(ax, np.eye(count), range(count)).get_clim() == (-1, 1)
    assert len(ax.get_xticklabels()) == len(ax.get_yticklabels()) == named


def test_numbers_as_text():
    assert percent(0.1234) == "12.3\u202f%"
    assert percent(None) == percent(float("nan")) == signed(None) == "–"
    assert (signed(0.5), signed(-0.123, 1)) == ("+0.50", "\u22120.1")


def test_thinned_orders_keep_both_ends():
    order = np.arange(1000)[::-1]
    assert thin(order[:200]).tolist() == order[:200].tolist()
    assert thin(order, 4).tolist() == [999, 666, 333, 0]
    assert len(thin(order)) == 200
