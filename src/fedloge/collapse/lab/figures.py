"""Figures of the collapse experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedloge.collapse.lab.output import Row
from fedloge.plotting import COLOURS, new_figure, norm_panel, plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
