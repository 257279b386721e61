"""The figures. matplotlib is imported when one is drawn; the global state of pyplot is never touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedloge.analysis.collapse.output import Row, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedloge.analysis.collapse.deep_linear import DeepLinear

COLOURS = ("#440154", "#2a788e", "#22a884", "#e8850c", "#c2255c", "#7a5195")


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure, width and height in inches, and its axes row by row."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes.flat)


def deep_linear_figure(settings: DeepLinear, curves: Sequence[Row]) -> Figure:
    """Every metric over the steps, a colour per depth; dashed, the rate at which gradient descent shrinks CDNV."""
    from fedloge.analysis.collapse.deep_linear import decay

    panels = {
        "nc1": "NC1",
        "cdnv": "CDNV",
        "nc2_w": "NC2: WWᵀ against theory",
        "nc2_h": "NC2: HᵀH against theory",
        "nc3": "NC3: WH against theory",
        "excess": "loss above theory (absolute)",
    }
    figure, axes = new_figure(2, 3, 10.5, 5.6)
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        for colour, layers in zip(COLOURS * 9, settings.layers, strict=False):
            for seed in settings.seeds:
                points = [row for row in curves if (row["layers"], row["seed"]) == (layers, seed)]
                steps = np.array([row["step"] for row in points])
                values = np.maximum(np.abs([row[name] for row in points]), 1e-30)
                label = f"M = {layers}" if seed == settings.seeds[0] else None
                ax.semilogy(steps, values, color=colour, linewidth=1.3, label=label)
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
    if settings.optimizer == "gd":
        steps = np.array([0, settings.steps])
        start = max(row["cdnv"] for row in curves if row["step"] == 0)
        rate = decay(settings)
        axes[1].semilogy(steps, start * np.exp(-rate * steps), "k--", linewidth=1, label=f"exp(-{rate:.2g} t)")
        axes[1].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    for ax in axes[3:]:
        ax.set_xlabel("iteration" if settings.optimizer == "lbfgs" else "step", fontsize=9)
    return figure
