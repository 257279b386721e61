"""Pictures of sweeps and studies."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedloge.experiments.study import Study
from fedloge.experiments.sweep import Sweep
from fedloge.experiments.tables import Row
from fedloge.markup import matplotlib_text
from fedloge.plotting import heat_map, new_figure
from fedloge.runs.measures import HEADLINES, mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Place = tuple[Any, ...]
"""Values of the parameters that vary."""

SYMBOLS = {"gamma": "γ", "beta": "β", "alpha": "α", "lam": "λ", "tau": "τ", "rho": "ρ"}


def symbol(option: str) -> str:
    """The paper's symbol of an option, or its short name."""
    short = option.rpartition(".")[2]
    return SYMBOLS.get(short, short)


def sweep_figure(sweep: Sweep, rows: Sequence[Row]) -> Figure | None:
    """GM and PM over the first two parameters that vary, averaged over all others; None if nothing varies.

    A single parameter gives curves, parameters with lists of values a heat map, ranges a dot per setting.
    """
    values = {name: _ordered(_place(row, name) for row in rows) for name in (rows[0].options if rows else ())}
    varied = [name for name in values if len(values[name]) > 1][:2]
    panels = [measure for measure in HEADLINES if any(row.values[measure.key] for row in rows)]
    if not varied or not panels:
        return None
    figure, axes = new_figure(1, len(panels), 4.6 * len(panels), 3.8)
    for ax, measure in zip(axes, panels, strict=True):
        known = [row for row in rows if row.values[measure.key]]
        points = [(tuple(_place(r, name) for name in varied), 100 * r.mean(measure.key)) for r in known]
        if len(varied) == 1:
            _draw_curve(ax, points)
        elif all(parameter.values for parameter in sweep.parameters if parameter.name in varied):
            _draw_heat_map(ax, points, *(values[name] for name in varied))
        else:
            _draw_dots(ax, points)
        ax.set_xlabel(matplotlib_text(symbol(varied[-1])))
        if len(varied) == 2:
            ax.set_ylabel(matplotlib_text(symbol(varied[0])), rotation=0 if len(symbol(varied[0])) == 1 else 90)
        ax.set_title(f"{measure.title}, accuracy (%)", fontsize=10)
    return figure


def _draw_curve(ax: Axes, points: Iterable[tuple[Place, float]]) -> None:
    means = _means(points)
    values = _ordered(value for (value,) in means)
    ax.plot(_places(ax, "x", values), [means[value,] for value in values], marker="o")


def _draw_heat_map(ax: Axes, points: Iterable[tuple[Place, float]], down: Sequence[Any], across: Sequence[Any]) -> None:
    means, down = _means(points), down[::-1]
    low, high = min(means.values()), max(means.values())
    grid = [[means.get((y, x), float("nan")) for x in across] for y in down]
    ax.grid(visible=False)
    ax.imshow(grid, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    for (y, x), value in means.items():
        color = "white" if value <= low + 0.6 * (high - low) else "black"
        ax.text(across.index(x), down.index(y), f"{value:.1f}", ha="center", va="center", color=color, fontsize=10)
    ax.set_xticks(range(len(across)), [matplotlib_text(value) for value in across])
    ax.set_yticks(range(len(down)), [matplotlib_text(value) for value in down])


def _draw_dots(ax: Axes, points: Sequence[tuple[Place, float]]) -> None:
    ys, xs = zip(*(place for place, _ in points), strict=True)
    colours = [value for _, value in points]
    dots = ax.scatter(_places(ax, "x", xs), _places(ax, "y", ys), c=colours, cmap="viridis", s=60, edgecolors="grey")
    ax.figure.colorbar(dots, ax=ax)
    _scale(ax, "x", xs)
    _scale(ax, "y", ys)


def curve_figure(study: Study, rows: Sequence[Row]) -> Figure:
    """A panel per measure over the number that a row stands for; crosses are the paper's values."""
    figure, axes = new_figure(1, len(study.measures), 4.6 * len(study.measures), 3.6)
    for ax, measure in zip(axes, study.measures, strict=True):
        known = [row for row in rows if row.values[measure]]
        places = [float(row.name) for row in known]
        means = [100 * row.mean(measure) for row in known]
        deviations = [100 * mean_std(row.values[measure])[1] for row in known]
        ax.errorbar(
            places, means, yerr=deviations, marker="o", capsize=3, label=f"ours, {matplotlib_text(study.scale)}"
        )
        printed = [(float(row.name), 100 * row.printed[measure]) for row in rows if measure in row.printed]
        if printed:
            ax.plot(*zip(*printed, strict=True), "x", color="grey", label="paper")
        _scale(ax, "x", places)
        ax.set_xlabel(matplotlib_text(study.x))
        ax.set_title(f"{measure} (%)", fontsize=10)
        ax.legend(fontsize=8)
    return figure


def cosine_figure(matrices: Mapping[str, Tensor]) -> Figure:
    """Cosines [C, C] between the rows of each frame."""
    figure, axes = new_figure(1, len(matrices), 4.2 * len(matrices), 3.8)
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = heat_map(ax, matrix.numpy(), range(len(matrix)))
        ax.set_title(matplotlib_text(name), fontsize=10)
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


def _place(row: Row, name: str) -> Any:
    """A parameter's value, as text unless it is a number."""
    value = row.options[name]
    return value if isinstance(value, int | float) else str(value)


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Different values, sorted if they are numbers."""
    found = list(dict.fromkeys(values))
    return sorted(found) if _numeric(found) else found


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _means(points: Iterable[tuple[Place, float]]) -> dict[Place, float]:
    """Mean of the values at each place."""
    found: dict[Place, list[float]] = {}
    for place, value in points:
        found.setdefault(place, []).append(value)
    return {place: statistics.fmean(values) for place, values in found.items()}


def _places(ax: Axes, axis: str, values: Sequence[Any]) -> list[float]:
    """Where values lie on an axis; those that are no numbers are written beside it, evenly spaced."""
    if _numeric(values):
        return list(values)
    known = _ordered(values)
    getattr(ax, f"set_{axis}ticks")(range(len(known)), [matplotlib_text(value) for value in known])
    return [known.index(value) for value in values]


def _scale(ax: Axes, axis: str, values: Sequence[Any]) -> None:
    """A logarithmic axis for positive numbers of different orders of magnitude."""
    if values and _numeric(values) and min(values) > 0 and max(values) > 10 * min(values):
        getattr(ax, f"set_{axis}scale")("log")
