"""Figures of the diagnostics. Each function takes one or more analyses by name and shows them side by side.

An analysis is what :func:`fedloge.analysis.analyze_run` returns, so that an ``analysis.json`` can be drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloge.markup import matplotlib_text
from fedloge.plotting import (
    COLOURS,
    MAX_NAMES,
    SHOT_COLORS,
    SYMBOLS,
    heat_map,
    new_figure,
    norm_panel,
    plain_ticks,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, Any]]

VARIANCE, RELATIVE, GREY = COLOURS[3], COLOURS[4], "0.88"


def head_symbol(key: str, result: Mapping[str, Any]) -> str:
    """The paper's symbol of a head: ``phi_k`` is φₖ; ``sse`` is SSE-C if it is sparse, otherwise a dense fixed head."""
    name = key.removesuffix("_k")
    if name == "sse" and not result["run"]["zeros_of_frozen_head"]:
        return "dense fixed head"
    symbol = SYMBOLS.get(name, name)
    return symbol if name == key or symbol.endswith("ₖ") else f"{symbol}ₖ"


def degeneration_figure(results: Results) -> Figure:
    """Fig. 1: sorted means of some classes with v above and v/m² below; grey where the frozen head is zero."""
    columns = max(len(result["degeneration"]["curves"]) for result in results.values())
    figure, axes = new_figure(2 * len(results), columns, 3.9 * columns + 0.6, 4.4 * len(results))
    for position, (name, result) in enumerate(results.items()):
        above = axes[2 * position * columns : (2 * position + 1) * columns]
        below = axes[(2 * position + 1) * columns : (2 * position + 2) * columns]
        curves = result["degeneration"]["curves"]
        for ax in [*above, *below][len(curves) : columns]:
            ax.axis("off")
        for upper, lower, curve in zip(above, below, curves, strict=False):
            _variance_panel(upper, curve, "variance", "v", VARIANCE)
            _variance_panel(lower, curve, "relative", "v/m²", RELATIVE)
            of = f"{matplotlib_text(name)}: " if len(results) > 1 else ""
            upper.set_title(f"{of}{_class(curve)}", fontsize=9)
            lower.set_xlabel("coordinates, largest mean first", fontsize=8)
        above[0].set_ylabel("mean m", fontsize=8)
        below[0].set_ylabel("mean m", fontsize=8)
    return figure


def _variance_panel(ax: Axes, curve: Mapping[str, Any], name: str, label: str, colour: str) -> None:
    """Draw m as an area and a variance on a second axis at the right, with grey behind masked coordinates."""
    mean, values = _numbers(curve["mean"]), _numbers(curve[name])
    places, masked = np.arange(len(mean)), np.flatnonzero(curve["masked"])
    ax.grid(visible=False)
    ax.bar(masked, 1, width=1, color=GREY, linewidth=0, antialiased=False, transform=ax.get_xaxis_transform())
    ax.fill_between(places, 0, mean, color=COLOURS[1], alpha=0.45, linewidth=0, step="mid")
    ax.set(xlim=(-0.5, len(mean) - 0.5), ylim=(min(0, float(mean.min())), float(mean.max()) * 1.05))
    ax.tick_params(labelsize=7)
    right = ax.twinx()
    right.spines["top"].set_visible(False)
    size = 3.5 if len(mean) < 200 else 2
    right.plot(places, np.where(values > 0, values, np.nan), ".", color=colour, markersize=size)
    if name == "relative":
        right.set_yscale("log")
        plain_ticks(right, (1, 3))
    else:
        right.set_ylim(bottom=0)
    right.tick_params(which="both", labelsize=7, colors=colour)
    right.set_ylabel(f"{label}, Spearman with m {signed(curve[f'spearman_{name}'])}", fontsize=8, color=colour)


def pruning_figure(results: Results) -> Figure | None:
    """Fig. 3: accuracy against the share of pruned coordinates; above by head, below by group for the head in use."""
    known = {name: result for name, result in results.items() if result["pruning"]}
    if not known:
        return None
    figure, axes = new_figure(2, len(known), max(4.4 * len(known), 5.2), 6.4)
    for column, (name, result) in enumerate(known.items()):
        above, below, pruning = axes[column], axes[column + len(known)], result["pruning"]
        for colour, (head, orders) in zip(COLOURS[1:] * 9, pruning["heads"].items(), strict=False):
            _curves(above, pruning["ratios"], orders, "all", colour, head_symbol(head, result))
        above.axhline(1 / result["run"]["classes"], color="0.5", linewidth=0.8, linestyle=":")
        own = pruning["heads"][pruning["head"]]
        for group, colour in SHOT_COLORS.items():
            if group in own["ascending"]:
                _curves(below, pruning["ratios"], own, group, colour, group)
        above.set_title(f"{matplotlib_text(name)}: all classes", fontsize=9)
        below.set_title(f"{matplotlib_text(name)}: {head_symbol(pruning['head'], result)} by group", fontsize=9)
        below.set_xlabel("share of coordinates set to zero", fontsize=8)
        for ax in (above, below):
            ax.margins(y=0.12)
            ax.tick_params(labelsize=7)
            ax.legend(fontsize=7, loc="upper center", ncols=3, frameon=False)
    for row in (axes[: len(known)], axes[len(known) :]):
        top = max(ax.get_ylim()[1] for ax in row)
        for ax in row:
            ax.set_ylim(-0.02, top)
    axes[0].set_ylabel("accuracy, mean of the classes", fontsize=8)
    axes[len(known)].set_ylabel("accuracy, mean of the classes", fontsize=8)
    figure.supxlabel("solid: smallest class means first; dashed: largest first; dotted: chance", fontsize=8)
    return figure


def _curves(ax: Axes, ratios: Sequence[float], orders: Mapping[str, Any], group: str, colour: str, label: str) -> None:
    ax.plot(ratios, orders["ascending"][group], color=colour, linewidth=1.5, label=label)
    ax.plot(ratios, orders["descending"][group], color=colour, linewidth=1.3, linestyle="--")


def tsne_figure(results: Results) -> Figure:
    """Fig. 6: class means on a t-SNE map, a colour per group."""
    figure, axes = new_figure(1, len(results), 4.6 * len(results), 4.5)
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        tsne = result["tsne"]
        size = 7 if len(tsne["points"]) <= MAX_NAMES else 3
        for group, colour in SHOT_COLORS.items():
            chosen = [
                point for point, facts in zip(tsne["points"], tsne["classes"], strict=True) if facts["group"] == group
            ]
            if chosen:
                ax.plot(*zip(*chosen, strict=True), "o", color=colour, label=group, markersize=size)
        if len(tsne["points"]) <= MAX_NAMES:
            for point, facts in zip(tsne["points"], tsne["classes"], strict=True):
                label = matplotlib_text(facts["name"])
                ax.annotate(label, point, xytext=(5, 4), textcoords="offset points", fontsize=7)
        near = f"nearest neighbour: min {tsne['nn_min_features']:.2f}, median {tsne['nn_median_features']:.2f} before"
        ax.set_title(f"{matplotlib_text(name)}\n{near} the map", fontsize=9)
        ax.margins(0.12)
        ax.tick_params(labelsize=7)
        ax.legend(fontsize=7)
    return figure


def cosine_figure(results: Results) -> Figure | None:
    """Fig. 7: cosines between the rows of every head, a row per run; classes by training images, most first."""
    columns = max(len(result["cosines"]["heads"]) for result in results.values())
    if columns == 0:
        return None
    figure, axes = new_figure(len(results), columns, 3.2 * columns + 0.9, 3.9 * len(results))
    for position, (name, result) in enumerate(results.items()):
        heads = result["cosines"]["heads"]
        row = axes[position * columns : (position + 1) * columns]
        for ax in row[len(heads) :]:
            ax.axis("off")
        for ax, (head, matrix) in zip(row, heads.items(), strict=False):
            image = heat_map(ax, _numbers(matrix), [facts["name"] for facts in result["cosines"]["classes"]])
            frame = result["frames"][head]
            spread = f"cos {signed(frame['cos_mean'], 3)} ± {frame['cos_std']:.3f}, max {signed(frame['cos_max'])}"
            mean = ", mean of the clients" if head.endswith("_k") else ""
            ax.set_title(f"{matplotlib_text(name)}: {head_symbol(head, result)}{mean}\n{spread}", fontsize=8)
    shown, all_classes = len(result["cosines"]["classes"]), result["run"]["classes"]
    if shown < all_classes:
        figure.supxlabel(f"{shown} of {all_classes} classes, evenly spaced by training images, most first", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label="cosine").ax.tick_params(labelsize=7)
    return figure


def norm_figure(results: Results) -> Figure | None:
    """Norms of the trained heads' rows against class sizes: above over all clients, below in every client."""
    columns = max(len(result["norms"]) for result in results.values())
    if columns == 0:
        return None
    figure, axes = new_figure(len(results), columns, 4.6 * columns, 3.8 * len(results))
    for position, (name, result) in enumerate(results.items()):
        row = axes[position * columns : (position + 1) * columns]
        for ax in row[len(result["norms"]) :]:
            ax.axis("off")
        for ax, (head, norms) in zip(row, result["norms"].items(), strict=False):
            if head.endswith("_k"):
                _client_panel(ax, norms, head_symbol(head, result))
            elif norms["exponent"] is not None:
                norm_panel(ax, norms["points"], norms, head_symbol(head, result))
            ax.set_title(f"{matplotlib_text(name)}: {head_symbol(head, result)}", fontsize=9)
    return figure


def _client_panel(ax: Axes, norms: Mapping[str, Any], symbol: str) -> None:
    sizes, values = (_numbers([row[name] for row in norms["points"]]) for name in ("n", "norm"))
    ax.loglog(sizes, values, "o", color=COLOURS[1], alpha=0.5, markersize=4, markeredgewidth=0)
    if norms["clients"]:
        fit = f"n^{norms['exponent_mean']:.2f} ± {norms['exponent_std']:.2f}, ρ = {signed(norms['spearman_mean'])}"
        ax.plot([], [], "o", color=COLOURS[1], label=f"each of {norms['clients']} clients: {fit}")
        ax.legend(fontsize=8)
    ax.set_xlabel("the client's own training images of the class, n", fontsize=9)
    ax.set_ylabel(f"norm of the class's row of {symbol}", fontsize=9)
    plain_ticks(ax, (1, 1.5, 2, 3, 5, 7))


def _class(facts: Mapping[str, Any]) -> str:
    return f"{matplotlib_text(facts['name'])} ({facts['group']}, {facts['n']} training images)"


def _numbers(values: Any) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


FIGURES: Mapping[str, Callable[[Results], Any]] = {
    "degeneration": degeneration_figure,
    "pruning": pruning_figure,
    "tsne": tsne_figure,
    "cosines": cosine_figure,
    "norms": norm_figure,
}
"""Function of each figure by the name of its file."""
