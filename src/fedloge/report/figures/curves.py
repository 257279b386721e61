"""Figures with the round on the horizontal axis, all runs in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedloge.data.statistics import Floats
from fedloge.markup import plotly_text
from fedloge.methods.base import View
from fedloge.plotting import RUN_COLORS
from fedloge.report.figures import plot
from fedloge.report.figures.panel import Control, Json, Option, Panel
from fedloge.report.run_data import RunData
from fedloge.runs.measures import GENERIC, GM, PERSONAL, PM, Measure
from fedloge.runs.tables import ModelView

MENU = {GM: "all classes", PM: "mean of clients"}
"""Labels of the headline numbers in the menu of a figure."""

BYTES = {"comm/bytes_up": "up", "comm/bytes_down": "down"}


def learning_curves(runs: Sequence[RunData]) -> list[Panel]:
    """Accuracy of the generic and of the personal models by round."""
    generic = "Accuracy on the global test set after each evaluated round."
    personal = "Accuracy of each client's personal model on its own test set, over the clients."
    panels = [
        _accuracy(runs, "global", generic + _note(runs, "global"), GENERIC),
        _accuracy(runs, "personal", personal + _note(runs, "personal"), PERSONAL),
    ]
    return [panel for panel in panels if panel is not None]


def cost_curves(runs: Sequence[RunData]) -> list[Panel]:
    """Training loss, seconds and megabytes of each evaluated round."""
    loss = "Sum of the method's own local objectives, averaged over the images trained on in the round."
    time = "Wall-clock time of the round, its evaluation included, on the machine named under Settings."
    sent = "Solid: sent by all clients of the round to the server; dotted: sent by the server to them."
    panels = (
        _lines("cost-loss", "Training loss", loss, runs, {"train/loss": ""}, "loss", 1.0),
        _lines("cost-seconds", "Seconds per round", time, runs, {"time/round_s": ""}, "s", 1.0),
        _lines("cost-bytes", "Megabytes per round", sent, runs, BYTES, "MB", 1e-6),
    )
    return [panel for panel in panels if panel is not None]


def run_color(position: int) -> str:
    """Colour of a run by its place in the report."""
    return RUN_COLORS[position % len(RUN_COLORS)]


def _note(runs: Sequence[RunData], view: View) -> str:
    steps = sorted({run.last_step for run in runs if run.last_step and run.changed(view)})
    if not steps:
        return ""
    tuned = any(run.config.get("model.finetune_epochs") for run in runs)
    return f" Solid: after {' or '.join(steps)}; dotted: as trained, before it." + (
        " Training after the last round has values for that round only." if tuned else ""
    )


def _accuracy(runs: Sequence[RunData], view: View, caption: str, measures: Sequence[Measure]) -> Panel | None:
    traces, values, measures = [], [], [measure for measure in measures if measure.higher_is_better]
    keys = [measure.name for measure in measures]
    for position, run in enumerate(runs):
        for stage in (ModelView(view), ModelView(view, before=True))[: 1 + run.changed(view)]:
            if stage.prefix + keys[0] in run.metrics:
                label = _label(run, runs, stage)
                traces.append(_trace(run, label, position, dotted=stage.before, alone=len(runs) == 1))
                values.append([plot.numbers(stage_values(run, stage, key)) for key in keys])
    if not traces:
        return None
    options = [
        Option(label, {"y": [part[which] for part in values]}, {"yaxis.title.text": f"accuracy, {label}"})
        for which, label in enumerate(MENU.get(measure, measure.title) for measure in measures)
    ]
    for trace, part in zip(traces, values, strict=True):
        trace["y"] = part[0]
        if sum(value is not None for value in part[0]) == 1:
            trace["marker"] = {"size": 9, "symbol": "diamond"}
    axes = {"xaxis": _round_axis(runs), "yaxis": plot.percent_axis(f"accuracy, {options[0].label}")}
    shown = plot.layout(height=340, hovermode="x unified", **axes)
    title = measures[0].title
    return Panel(f"curves-{view}", title[0].upper() + title[1:], caption, traces, shown, Control("Show", options))


def _label(run: RunData, runs: Sequence[RunData], stage: ModelView) -> str:
    if len(runs) == 1:
        return "as trained" if stage.before or not run.changed(stage.model) else f"after {run.last_step}"
    name = plotly_text(run.name)
    return f"{name}, before" if stage.before else name


def _trace(run: RunData, label: str, position: int, dotted: bool = False, alone: bool = True) -> Json:
    """A line; among several runs a dotted line shares the legend entry of its run."""
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
    """An axis of rounds, with a tick at each of up to ten."""
    last = max(int(run.metrics["round"].max()) for run in runs if run.metrics)
    return {"title": {"text": "round"}, **({"dtick": 1} if last <= 10 else {})}


def stage_values(run: RunData, stage: ModelView, key: str) -> Floats:
    """A column of ``metrics.csv`` after or before the last step; rounds without the step count as before."""
    after = run.metrics[ModelView(stage.model).prefix + key]
    before = run.metrics.get(ModelView(stage.model, before=True).prefix + key)
    if before is None:
        return after
    skipped = np.isnan(before)
    if stage.before:
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
    """Columns of ``metrics.csv`` with their labels as lines; the second column is dotted."""
    traces = []
    for position, run in enumerate(runs):
        for column, name in columns.items():
            if column in run.metrics:
                dotted, alone = column != next(iter(columns)), len(runs) == 1
                own = plotly_text(run.name)
                label = name if alone else f"{own}, {name}" if dotted else own
                trace = _trace(run, label, position, dotted, alone)
                values = plot.numbers(run.metrics[column] * scale, 6)
                traces.append({**trace, "y": values, "hovertemplate": "%{y:.4~g} " + unit})
    if not traces:
        return None
    shown = plot.layout(
        260,
        hovermode="x unified",
        showlegend=len(traces) > 1,
        xaxis=_round_axis(runs),
        yaxis={"title": {"text": unit}, "rangemode": "tozero"},
    )
    return Panel(key, title, caption, traces, shown)
