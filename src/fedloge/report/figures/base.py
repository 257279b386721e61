"""What the figures have in common. A figure is the JSON that plotly draws; the page adds the theme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedloge.plotting import MAX_CLASSES

BEFORE_BAR: Mapping[str, Any] = {"type": "bar", "width": 0.22, "opacity": 0.6, "meta": "ink"}
"""The bar within a bar that shows what was before; the page draws ``ink`` in the colour of its text."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """A choice of a control: what plotly changes in traces (``data``) and axes (``layout``)."""

    label: str
    data: Json
    layout: Json


@dataclass(frozen=True)
class Control:
    """A drop-down list above a figure; the first option is what the figure shows at the start."""

    label: str
    options: Sequence[Option]


@dataclass(frozen=True)
class Panel:
    """A figure with its words.

    Args:
        key: Unique in the page.
        title: What it shows.
        caption: How to read it, which split and which round; plain text.
        data: Plotly's traces.
        layout: Plotly's layout.
        control: What the reader may change.
    """

    key: str
    title: str
    caption: str
    data: Sequence[Json]
    layout: Json
    control: Control | None = None


def layout(height: int = 320, **options: Any) -> Json:
    """The common layout."""
    top = 34 if options.get("showlegend", True) else 8
    return {
        "height": height,
        "margin": {"l": 52, "r": 12, "t": top, "b": 42},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemwidth": 30},
        "hoverlabel": {"align": "left"},
        **options,
    }


def percent_axis(title: str) -> Json:
    """A value axis from 0 to 100 %."""
    return {"title": {"text": title}, "range": [0, 1.02], "tickformat": ".0%"}


def category_axis(title: str, order: Sequence[str]) -> Json:
    """An axis of names in an order; their labels are hidden where there are too many to be read."""
    return {
        "title": {"text": title},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(order),
        "range": [-0.6, len(order) - 0.4],
        "automargin": True,
        "showgrid": False,
        **_tick_labels(order),
    }


def _tick_labels(names: Sequence[str]) -> Json:
    """None where there are too many to be read, slanting where they are long."""
    if len(names) > 50:
        return {"showticklabels": False, "ticks": ""}
    return {"tickangle": -45 if max(map(len, names)) > 4 and len(names) > 4 else 0}


def heat_names(title: str, names: Sequence[str]) -> Json:
    """An axis of a heat map with a name for every row or column."""
    return {"title": {"text": title}, "type": "category", **_tick_labels(names)}


def heat_map(x: Sequence[str], y: Sequence[str], hover: str, **cells: Any) -> Json:
    """The trace of a heat map on the layout's colour axis, with lines between cells where these are few."""
    gap = 1 if len(x) <= 20 else 0
    return {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "xgap": gap,
        "ygap": gap,
        "coloraxis": "coloraxis",
        "hovertemplate": hover + "<extra></extra>",
        **cells,
    }


def heat_axes(x: Json, y: Json) -> Json:
    """Axes of a heat map."""
    plain = {"showgrid": False, "zeroline": False, "automargin": True}
    return {"xaxis": {**x, **plain}, "yaxis": {**y, **plain, "autorange": "reversed", "tickangle": 0}}


def color_axis(scale: str, **options: Any) -> Json:
    """A colour axis; the page gives the colours of ``scale`` (``sequential`` or ``diverging``)."""
    bar = {"thickness": 10, "outlinewidth": 0, "len": 1, "xpad": 4, **options.pop("colorbar", {})}
    return {"coloraxis": {"colorbar": bar, **options}, "meta": {"scale": scale}}


def numbers(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Rounded for the page; null where there is no number."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]


def grid(values: Iterable[Iterable[float]], digits: int = 3) -> list[list[float | None]]:
    """:func:`numbers` of every row."""
    return [numbers(row, digits) for row in values]


def thinned_note(num_classes: int) -> str:
    """What a caption says where :func:`thin` left classes out."""
    if num_classes <= MAX_CLASSES:
        return ""
    return f" {MAX_CLASSES} of the {num_classes} classes are shown, evenly spaced in that order."
