"""Figures with the round on the horizontal axis, all runs in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedloge.data.statistics import Floats
from fedloge.plotting import RUN_COLORS
from fedloge.report.figures.base import (
    Control,
    Json,
    Option,
    Panel,
    layout,
    numbers,
    percent_axis,
)
from fedloge.report.run_data import OLD, RunData

GENERIC = {"all classes": "acc", "many-shot": "acc_many", "medium-shot": "acc_medium", "few-shot": "acc_few"}
PERSONAL = {
    "mean of clients": "acc_mean",
    "worst tenth": "acc_worst_decile",
    "many-shot": "acc_many",
    "medium-shot": "acc_medium",
    "few-shot": "acc_few",
}
"""Columns of ``metrics.csv`` by what the report calls them."""

BYTES = {"comm/bytes_up": "up", "comm/bytes_down": "down"}


def learning_curves(runs: Sequence[RunData]) -> list[Panel]:
    """Accuracy of the generic and of the personal models by round."""
    titles = {
        "global": ("Generic model (GM)", "Accuracy on the global test set after each evaluated round.", GENERIC),
        "personal": (
            "Personal models (PM)",
            "Accuracy of every client's model on that client's own test set, over the clients.",
            PERSONAL,
        ),
    }
    panels = [
        _accuracy(runs, view, title, caption + _note(runs, view), names)
        for view, (title, caption, names) in titles.items()
    ]
    return [panel for panel in panels if panel is not None]


def cost_curves(runs: Sequence[RunData]) -> list[Panel]:
    """Training loss, seconds and megabytes of each evaluated round."""
    loss = "Sum of the local objectives, averaged over the images trained on in the round. Every method has its own."
    time = "Wall-clock time of the round, its evaluation included, on the machine named under Settings."
    sent = "Solid: sent by all clients of the round to the server; dotted: by the server to them."
    panels = (
        _lines("cost-loss", "Training loss", loss, runs, {"train/loss": ""}, "loss", 1.0),
        _lines("cost-seconds", "Seconds per round", time, runs, {"time/round_s": ""}, "s", 1.0),
        _lines("cost-bytes", "Megabytes per round", sent, runs, BYTES, "MB", 1e-6),
    )
    return [panel for panel in panels if panel is not None]


def run_color(position: int) -> str:
    """Colour of a run by its place in the report."""
    return RUN_COLORS[position % len(RUN_COLORS)]


def _note(runs: Sequence[RunData], view: str) -> str:
    steps = sorted({run.last_step for run in runs if run.last_step and run.changed(view)})
    if not steps:
        return ""
    tuned = any(run.config.get("model.finetune_epochs") for run in runs)
    return f" Solid: after {' or '.join(steps)}; dotted: as trained, before it." + (
        " Training that follows the last round is done there alone." if tuned else ""
    )


def _accuracy(runs: Sequence[RunData], view: str, title: str, caption: str, names: Mapping[str, str]) -> Panel | None:
    traces, values = [], []
    for position, run in enumerate(runs):
        for prefix in ("", OLD):
            columns = [f"{view}/{name}" for name in names.values()]
            if prefix + columns[0] in run.metrics:
                label = _label(run, runs, view, prefix)
                traces.append(_trace(run, label, position, dotted=prefix == OLD, alone=len(runs) == 1))
                values.append([numbers(stage_values(run, prefix, column)) for column in columns])
    if not traces:
        return None
    options = [
        Option(label, {"y": [part[which] for part in values]}, {"yaxis.title.text": f"accuracy, {label}"})
        for which, label in enumerate(names)
    ]
    for trace, part in zip(traces, values, strict=True):
        trace["y"] = part[0]
        if sum(value is not None for value in part[0]) == 1:
            trace["marker"] = {"size": 9, "symbol": "diamond"}
    axes = {"xaxis": _round_axis(runs), "yaxis": percent_axis(f"accuracy, {options[0].label}")}
    shown = layout(height=340, hovermode="x unified", **axes)
    return Panel(f"curves-{view}", title, caption, traces, shown, Control("Show", options))


def _label(run: RunData, runs: Sequence[RunData], view: str, prefix: str) -> str:
    stage = "as trained" if prefix or not run.changed(view) else f"after {run.last_step}"
    if len(runs) == 1:
        return stage
    return f"{run.name}, before" if prefix else run.name


def _trace(run: RunData, label: str, position: int, dotted: bool = False, alone: bool = True) -> Json:
    """A line; beside other runs a dotted one shares the entry of its run in the legend."""
    rounds = run.metrics["round"]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(rounds) <= 60 else "lines",
        "name": label,
        "x": [int(number) for number in rounds],
        "line": {"color": run_color(position), "width": 2, "dash": "dot" if dotted else "solid"},
        "marker": {"size": 4},
        "opacity": 0.75 if dotted else 1,
        "legendgroup": str(position) if not alone else label,
        "showlegend": alone or not dotted,
        "hovertemplate": "%{y:.1%}",
    }


def _round_axis(runs: Sequence[RunData]) -> Json:
    """Rounds, with a tick at each where there are few."""
    last = max(int(run.metrics["round"].max()) for run in runs if run.metrics)
    return {"title": {"text": "round"}, **({"dtick": 1} if last <= 10 else {})}


def stage_values(run: RunData, prefix: str, column: str) -> Floats:
    """A column after the last step, or before it; in rounds without the step the one value is the one before."""
    after, before = run.metrics[column], run.metrics.get(OLD + column)
    if before is None:
        return after
    skipped = np.isnan(before)
    if prefix:
        return np.where(skipped, after, before)
    return np.where(skipped, np.nan, after)


def _lines(
    key: str,
    title: str,
    caption: str,
    runs: Sequence[RunData],
    columns: Mapping[str, str],
    unit: str,
    scale: float,
) -> Panel | None:
    """Columns of ``metrics.csv`` by what to call them; the second one is dotted."""
    traces = []
    for position, run in enumerate(runs):
        for column, name in columns.items():
            if column in run.metrics:
                dotted, alone = column != next(iter(columns)), len(runs) == 1
                label = name if alone else f"{run.name}, {name}" if dotted else run.name
                trace = _trace(run, label, position, dotted, alone)
                values = numbers(run.metrics[column] * scale, 6)
                traces.append({**trace, "y": values, "hovertemplate": "%{y:.4~g} " + unit})
    if not traces:
        return None
    shown = layout(
        260,
        hovermode="x unified",
        showlegend=len(traces) > 1,
        xaxis=_round_axis(runs),
        yaxis={"title": {"text": unit}, "rangemode": "tozero"},
    )
    return Panel(key, title, caption, traces, shown)
