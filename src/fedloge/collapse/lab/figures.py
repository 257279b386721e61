"""Figures of the collapse experiments, drawn without the global state of pyplot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedloge.collapse.lab.output import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#440154", "#2a788e", "#22a884", "#e8850c", "#c2255c", "#7a5195")


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``width`` by ``height`` inches, and its axes in row order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes.flat)


def plain_ticks(ax: Axes, digits: Sequence[float]) -> None:
    """Label the logarithmic vertical axis with plain numbers whose leading digit is one of ``digits``."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.yaxis.set_major_locator(LogLocator(subs=digits))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:.2g}")
    ax.tick_params(labelsize=8)


def deep_linear_figure(curves: Sequence[Row], unit: str = "step", rate: float | None = None) -> Figure:
    """Every metric over training, one colour per depth and one curve per seed.

    Args:
        curves: Rows of ``curves.csv``.
        unit: Label of the horizontal axis.
        rate: Decay rate of CDNV per step, drawn as a dashed line; None draws none.
    """
    panels = {
        "nc1": "NC1",
        "cdnv": "CDNV",
        "nc2_w": "NC2: WWᵀ against theory",
        "nc2_h": "NC2: HᵀH against theory",
        "nc3": "NC3: WH against theory",
        "excess": "loss above theory (absolute)",
    }
    figure, axes = new_figure(2, 3, 10.5, 5.6)
    depths, seeds = (list(dict.fromkeys(row[name] for row in curves)) for name in ("layers", "seed"))
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        for colour, layers in zip(COLOURS * 9, depths, strict=False):
            for seed in seeds:
                points = [row for row in curves if (row["layers"], row["seed"]) == (layers, seed)]
                steps = np.array([row["step"] for row in points])
                values = np.maximum(np.abs([row[name] for row in points]), 1e-30)
                label = f"M = {layers}" if seed == seeds[0] else None
                ax.semilogy(steps, values, color=colour, linewidth=1.3, label=label)
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
    if rate is not None:
        steps = np.array([0, max(row["step"] for row in curves)])
        start = max(row["cdnv"] for row in curves if row["step"] == 0)
        axes[1].semilogy(steps, start * np.exp(-rate * steps), "k--", linewidth=1, label=f"exp(-{rate:.2g} t)")
        axes[1].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    for ax in axes[3:]:
        ax.set_xlabel(unit, fontsize=9)
    return figure


def language_figure(rows: Sequence[Row], correlations: dict[str, float]) -> Figure:
    """Each metric against the validation loss: one colour per width, one marker per number of steps."""
    panels = {
        "cdnv_log": "mean log CDNV (p = 2)",
        "gnc2_var": "GNC2 variance",
        "equinorm": "CV of the norms of the means",
        "nc3_cosine": "NC3: mean cos(w, μ)",
        "unc3_var": "UNC3: variance of cos(w, μ)",
        "nc4": "NC4 on held-out text",
    }
    figure, axes = new_figure(2, 3, 10.5, 5.8)
    widths = sorted({row["width"] for row in rows})
    lengths = sorted({row["steps"] for row in rows})
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        for colour, width in zip(COLOURS * 9, widths, strict=False):
            for marker, steps in zip("o^sDvP" * 9, lengths, strict=False):
                points = [row for row in rows if (row["width"], row["steps"]) == (width, steps)]
                x, y = [row["val_loss"] for row in points], [row[name] for row in points]
                ax.plot(x, y, marker, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.5)
        note = f", ρ = {correlations[name]:+.2f}" if name in correlations else ""
        ax.set_title(title + note, fontsize=10)
        ax.tick_params(labelsize=8)
    for ax in axes[3:]:
        ax.set_xlabel("validation loss (nats)", fontsize=9)
    handles = [
        axes[0].plot([], [], "o", color=c, label=f"d = {w}")[0] for c, w in zip(COLOURS * 9, widths, strict=False)
    ]
    for marker, steps in zip("o^sDvP" * 9, lengths, strict=False):
        handles += axes[0].plot([], [], marker, color="grey", label=f"{steps} steps")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def frame_figure(rows: Sequence[Row]) -> Figure:
    """‖w_k‖ (top) and ‖μ_k‖ (bottom) against n_k in the closed form: one column per ridge, one colour per depth."""
    lambdas, depths = (list(dict.fromkeys(row[name] for row in rows)) for name in ("lambda", "layers"))
    figure, axes = new_figure(2, len(lambdas), 4.2 * len(lambdas), 5.6)
    for column, lam in enumerate(lambdas):
        above, below = axes[column], axes[column + len(lambdas)]
        for colour, layers in zip(COLOURS * 9, depths, strict=False):
            part = [row for row in rows if (row["lambda"], row["layers"]) == (lam, layers)]
            alive = [row for row in part if row["w"] > 0]
            gone = len(part) - len(alive)
            for ax, name in ((above, "w"), (below, "h")):
                if alive:
                    ax.loglog(
                        [row["n"] for row in alive], [row[name] for row in alive], "o-", color=colour, markersize=4
                    )
            note = f", {gone} at zero" if gone else ""
            above.plot([], [], "o-", color=colour, markersize=4, label=f"M = {layers}{note}")
        above.set_title(f"λ = {lam:g}", fontsize=10)
        above.legend(fontsize=8)
        below.set_xlabel("samples of the class, n", fontsize=9)
        for ax in (above, below):
            plain_ticks(ax, (1, 2, 5))
    axes[0].set_ylabel("‖w‖", fontsize=9)
    axes[len(lambdas)].set_ylabel("‖μ‖", fontsize=9)
    return figure


def psi_figure(rows: Sequence[Row], summary: Mapping[str, float], head: str) -> Figure:
    """Row norms of a run's head against class sizes, their power-law fit, and the closed form n^{1/4}."""
    figure, axes = new_figure(1, 1, 6.2, 4.4)
    norm_panel(axes[0], rows, summary, head)
    return figure


def norm_panel(ax: Axes, rows: Sequence[Row], summary: Mapping[str, float], head: str) -> None:
    """Draw the norms of a head in ``ax``, from rows with ``class``, ``n`` and ``norm`` and their power-law fit."""
    seen = [row for row in rows if row["n"] and row["norm"]]
    sizes, norms = (np.array([row[name] for row in seen], dtype=float) for name in ("n", "norm"))
    centre, level = np.exp(np.log(sizes).mean()), np.exp(np.log(norms).mean())
    line = np.geomspace(sizes.min(), sizes.max(), 50)
    ax.loglog(line, level * (line / centre) ** summary["theory"], "k--", linewidth=1.2, label="closed form: n^0.25")
    fit = f"fit: n^{summary['exponent']:.2f}, ρ = {summary['spearman']:+.2f}"
    ax.loglog(line, level * (line / centre) ** summary["exponent"], color=COLOURS[1], linewidth=1.2, label=fit)
    ax.loglog(sizes, norms, "o", color=COLOURS[1], label=f"rows of {head}", markersize=6 if len(seen) <= 50 else 3)
    for row in seen if len(seen) <= 20 else []:
        ax.annotate(str(row["class"]), (row["n"], row["norm"]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set_xlabel("training images of the class over all clients, n", fontsize=9)
    ax.set_ylabel(f"norm of the class's row of {head}", fontsize=9)
    plain_ticks(ax, (1, 1.2, 1.5, 2, 3, 5, 7))
    ax.legend(fontsize=8)
