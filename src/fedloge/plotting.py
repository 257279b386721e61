"""What all figures share: colours, symbols, and the parts that matplotlib draws without the global state of pyplot."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloge.markup import matplotlib_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#440154", "#2a788e", "#22a884", "#e8850c", "#c2255c", "#7a5195")
"""Colours of curves in figures on a white ground."""

SHOT_COLORS = {"many": "#4a86c5", "medium": "#dda333", "few": "#c4576b"}
"""Colours of many-, medium- and few-shot classes, distinguishable with every kind of colour blindness."""

RUN_COLORS = ("#3b82c4", "#d98324", "#3a9d6e", "#c05299", "#8b6fd0", "#a3852c", "#5aa9c9", "#b5534b")
"""Colours of runs in the order given."""

MUTED = "#808a98"
"""Colour of secondary marks, visible on a light and on a dark ground."""

SYMBOLS = {"psi": "ψ", "phi": "φₖ", "sse": "SSE\N{NON-BREAKING HYPHEN}C"}
"""The paper's symbols for the classifiers of FedLoGe, by the name of the module."""

MAX_CLASSES = 200
"""Default number of classes in a heat map: more cannot be distinguished, nor kept in a page of a few megabytes."""

MAX_NAMES = 30
"""Largest number of classes whose names are written beside a plot."""


FALLBACK_FONTS = {
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Arial Unicode MS"),
}
"""Fonts for letters that DejaVu Sans, matplotlib's own, does not have."""


def empty_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches without axes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``width`` by ``height`` inches, and its axes in row order."""
    figure = empty_figure(width, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes.flat)


def png(figure: Figure, dpi: int = 100, colours: int | None = None) -> bytes:
    """A figure as PNG, reduced to ``colours`` (at most 256) where given; 64 save two thirds of the space."""
    from PIL import Image

    buffer = io.BytesIO()
    with _fonts():
        figure.savefig(buffer, format="png", dpi=dpi)
    if colours is None:
        return buffer.getvalue()
    reduced = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours).save(reduced, format="png", optimize=True)
    return reduced.getvalue()


@contextmanager
def _fonts() -> Iterator[None]:
    """Draw letters that the standard font lacks in an installed font that has them, or as a box, without a warning."""
    from matplotlib import font_manager, rc_context, rcParams

    found = sorted(FALLBACK_FONTS & set(font_manager.get_font_names()))
    with rc_context({"font.sans-serif": [*rcParams["font.sans-serif"], *found]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def plain_ticks(ax: Axes, digits: Sequence[float]) -> None:
    """Label the logarithmic vertical axis with plain numbers whose leading digit is one of ``digits``."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.yaxis.set_major_locator(LogLocator(subs=digits))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:.2g}")
    ax.tick_params(labelsize=8)


def norm_panel(ax: Axes, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float], head: str) -> None:
    """Draw the row norms of a classifier against class sizes, their power-law fit, and the closed form n^{1/4}.

    Args:
        ax: Axes to draw in.
        rows: Rows with ``class``, ``n`` (training images) and ``norm``.
        summary: ``exponent`` and ``spearman`` of the fit, and the exponent of the closed form as ``theory``.
        head: Name of the classifier in labels.
    """
    name, seen = matplotlib_text(head), [row for row in rows if row["n"] and row["norm"]]
    sizes, norms = (np.array([row[column] for row in seen], dtype=float) for column in ("n", "norm"))
    centre, level = np.exp(np.log(sizes).mean()), np.exp(np.log(norms).mean())
    line = np.geomspace(sizes.min(), sizes.max(), 50)
    ax.loglog(line, level * (line / centre) ** summary["theory"], "k--", linewidth=1.2, label="closed form: n^0.25")
    fit = f"fit: n^{summary['exponent']:.2f}, ρ = {summary['spearman']:+.2f}"
    ax.loglog(line, level * (line / centre) ** summary["exponent"], color=COLOURS[1], linewidth=1.2, label=fit)
    ax.loglog(sizes, norms, "o", color=COLOURS[1], label=f"rows of {name}", markersize=6 if len(seen) <= 50 else 3)
    for row in seen if len(seen) <= 20 else []:
        point, label = (row["n"], row["norm"]), matplotlib_text(row["class"])
        ax.annotate(label, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set_xlabel("training images of the class over all clients, n", fontsize=9)
    ax.set_ylabel(f"norm of the class's row of {name}", fontsize=9)
    plain_ticks(ax, (1, 1.2, 1.5, 2, 3, 5, 7))
    ax.legend(fontsize=8)


def heat_map(ax: Axes, matrix: NDArray[Any], names: Sequence[Any]) -> Any:
    """Draw cosines [C, C] between -1 and 1, with the names of up to :data:`MAX_NAMES` classes; returns the image."""
    ax.grid(visible=False)
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    labels = [matplotlib_text(name) for name in names] if len(names) <= MAX_NAMES else []
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    return image


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash for None and numbers that are not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign, where minus is not a hyphen; a dash for None."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def thin(order: NDArray[np.int64], limit: int = MAX_CLASSES) -> NDArray[np.int64]:
    """At most ``limit`` entries of an order, evenly spaced."""
    if len(order) <= limit:
        return order
    chosen: NDArray[np.int64] = order[np.linspace(0, len(order) - 1, limit).round().astype(np.int64)]
    return chosen
