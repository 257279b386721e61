"""Layouts, axes and traces in plotly's JSON; the page adds the theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from fedloge.markup import plotly_text, shortened
from fedloge.plotting import MAX_CLASSES
from fedloge.report.figures.panel import Json


def layout(height: int = 320, **options: Any) -> Json:
    """The layout that all figures share."""
    top = 34 if options.get("showlegend", True) else 8
    return {
        "height": height,
        "margin": {"l": 52, "r": 12, "t": top, "b": 42},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemwidth": 30},
        "hoverlabel": {"align": "left"},
        **options,
    }


def bar_layout(x: Json, y: Json, **options: Any) -> Json:
    """The layout of bars, with those of :func:`narrow_bars` within the others."""
    return layout(barmode="overlay", bargap=0.15, xaxis=x, yaxis=y, **options)


def narrow_bars(name: str, x: Sequence[str], **trace: Any) -> Json:
    """Bars within other bars, for a second value; the page draws them in the colour of its text (``ink``)."""
    return {"type": "bar", "width": 0.22, "opacity": 0.6, "meta": "ink", "name": name, "x": texts(x), **trace}


def texts(names: Iterable[str]) -> list[str]:
    """Names as plotly's categories and labels."""
    return [plotly_text(name) for name in names]


def percent_axis(title: str) -> Json:
    """A value axis from 0 to 100 %."""
    return {"title": {"text": title}, "range": [0, 1.02], "tickformat": ".0%"}


def category_axis(title: str, order: Sequence[str]) -> Json:
    """An axis of names in an order."""
    return {
        "title": {"text": title},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": texts(order),
        "range": [-0.6, len(order) - 0.4],
        "automargin": True,
        "showgrid": False,
        **_tick_labels(order),
    }


def _tick_labels(names: Sequence[str]) -> Json:
    """Hide the labels of more than 50 names; slant long ones, and shorten very long ones."""
    if len(names) > 50:
        return {"showticklabels": False, "ticks": ""}
    labels = [shortened(name) for name in names]
    slanted = {"tickangle": -45 if max(map(len, labels)) > 4 and len(labels) > 4 else 0}
    return {**slanted, "tickvals": texts(names), "ticktext": texts(labels)} if labels != list(names) else slanted


def heat_names(title: str, names: Sequence[str]) -> Json:
    """An axis of a heat map with a name for every row or column."""
    return {"title": {"text": title}, "type": "category", **_tick_labels(names)}


def heat_map(x: Sequence[str], y: Sequence[str], hover: str, **cells: Any) -> Json:
    """The trace of a heat map, with lines between the cells of up to 20 columns."""
    gap = 1 if len(x) <= 20 else 0
    return {
        "type": "heatmap",
        "x": texts(x),
        "y": texts(y),
        "xgap": gap,
        "ygap": gap,
        "coloraxis": "coloraxis",
        "hovertemplate": hover + "<extra></extra>",
        **cells,
    }


def heat_layout(height: int, x: Json, y: Json, scale: str, **options: Any) -> Json:
    """The layout of a heat map.

    Args:
        height: Height in pixels.
        x: Horizontal axis.
        y: Vertical axis; its first entry is drawn at the top.
        scale: Colours of the page for the colour axis, ``sequential`` or ``diverging``.
        options: Further properties of the colour axis.
    """
    plain = {"showgrid": False, "zeroline": False, "automargin": True}
    bar = {"thickness": 10, "outlinewidth": 0, "len": 1, "xpad": 4, **options.pop("colorbar", {})}
    return layout(
        height,
        showlegend=False,
        xaxis={**x, **plain},
        yaxis={**y, **plain, "autorange": "reversed", "tickangle": 0},
        coloraxis={"colorbar": bar, **options},
        meta={"scale": scale},
    )


def numbers(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Rounded numbers; None for those that are not finite."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]


def grid(values: Iterable[Iterable[float]], digits: int = 3) -> list[list[float | None]]:
    """:func:`numbers` of every row."""
    return [numbers(row, digits) for row in values]


def cell_texts(values: NDArray[Any], word: Callable[[Any], str]) -> list[list[str]]:
    """Texts of the cells of a heat map with up to 12 columns; empty for wider ones."""
    return [[word(value) for value in row] for row in values.tolist()] if values.shape[1] <= 12 else []


def share_text(share: float) -> str:
    """A share in whole percent without the sign; empty below half a percent."""
    return f"{100 * share:.0f}" if share >= 0.005 else ""


def thinned_note(num_classes: int) -> str:
    """Sentence for a caption where :func:`fedloge.plotting.thin` leaves classes out; otherwise empty."""
    if num_classes <= MAX_CLASSES:
        return ""
    return f" {MAX_CLASSES} of the {num_classes} classes are shown, evenly spaced in that order."
