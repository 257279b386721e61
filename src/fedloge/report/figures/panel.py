"""A figure of the page with its words and its control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedloge.markup import plotly_text

Json = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """A choice of a control.

    Args:
        label: Text of the choice.
        data: Properties of plotly's traces to change, one value per trace.
        layout: Properties of plotly's layout to change.
    """

    label: str
    data: Json
    layout: Json


@dataclass(frozen=True)
class Control:
    """A drop-down list above a figure; the figure starts with the first option."""

    label: str
    options: Sequence[Option]


@dataclass(frozen=True)
class Panel:
    """A figure with its words.

    Args:
        key: Identifier, unique in the page.
        title: What the figure shows.
        caption: How to read it, on which split and after which round; plain text.
        data: Plotly's traces.
        layout: Plotly's layout.
        control: What the reader may change; None for a figure without a control.
    """

    key: str
    title: str
    caption: str
    data: Sequence[Json]
    layout: Json
    control: Control | None = None


def sort_control(orders: Mapping[str, Sequence[str]]) -> Control:
    """A control that sorts the horizontal axis; takes the names of the axis in each order, by the order's label."""
    shown = {label: [plotly_text(name) for name in names] for label, names in orders.items()}
    return Control("Sort", [Option(label, {}, {"xaxis.categoryarray": names}) for label, names in shown.items()])


def client_label(client: str) -> str:
    """Label of a client, the same in all controls: the page applies a choice to every figure that offers it."""
    return f"client {client}"
