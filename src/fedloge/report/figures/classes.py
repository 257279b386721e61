"""Figures by class: accuracies as bars, and the confusion matrix."""

from __future__ import annotations

import numpy as np

from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats
from fedloge.evaluation.shots import SHOTS
from fedloge.methods.base import View
from fedloge.plotting import SHOT_COLORS, percent, thin
from fedloge.report.figures import plot
from fedloge.report.figures.panel import Control, Json, Option, Panel, sort_control
from fedloge.report.run_data import Confusion, RunData
from fedloge.runs.measures import MODELS
from fedloge.runs.tables import ModelView

TESTS = {
    "global": "on the global test set",
    "personal": "on the clients' own test sets, all clients together",
}


def class_accuracy(run: RunData, view: View, key: str) -> Panel | None:
    """Accuracy of every class as bars in the colours of many, medium and few; narrow bars: before the last step."""
    after, before = (run.class_accuracy.get(ModelView(view, stage)) for stage in (False, True))
    if after is None:
        return None
    traces = [_bars(run, view, group, after, before) for group in SHOTS]
    caption = f"Share of each class's images classified correctly by the {MODELS[view]} {TESTS[view]}, {_round(run)}."
    if before is not None:
        traces.append(plot.narrow_bars("before", run.class_names, y=plot.numbers(before), hoverinfo="skip"))
        caption += f" Wide bars: after {run.last_step}; narrow bars: before."
    if view == "personal":
        caption += " Rare classes have few test images: hover for their number."
    untested = int(np.isnan(after).sum())
    if untested:
        caption += f" {untested} class(es) without test images have no bar."
    orders = {label: [run.class_names[c] for c in order] for label, order in _orders(run, after, before).items()}
    shown = plot.bar_layout(plot.category_axis("class", orders["training images"]), plot.percent_axis("accuracy"))
    return Panel(key, f"Accuracy, {MODELS[view]}", caption, traces, shown, sort_control(orders))


def confusion(run: RunData, view: View, key: str) -> Panel | None:
    """Confusion matrix, each row in shares of the true class; a control offers that before the last step."""
    stages = [ModelView(view, before) for before in (False, True)]
    shown = [stage for stage in stages if stage in run.confusion]
    if not shown:
        return None
    order = thin(run.by_count)
    names = [run.class_names[c] for c in order]
    options = [Option(_stage(run, stage), _cells(run.confusion[stage], order), {}) for stage in shown]
    hover = "true %{y}<br>predicted %{x}<br>%{z:.1%} of the class (%{customdata} images)"
    first = {name: value[0] for name, value in options[0].data.items()}
    trace = plot.heat_map(names, names, hover, texttemplate="%{text}", **first)
    axes = (plot.heat_names("predicted class", names), plot.heat_names("true class", names))
    caption = (
        f"Rows: true class; columns: class predicted by the {MODELS[view]} {TESTS[view]}, {_round(run)}. Classes with "
        "the most training images come first; correct predictions are on the diagonal."
    )
    return Panel(
        key,
        f"Confusion, {MODELS[view]}",
        caption + plot.thinned_note(len(run.class_names)),
        [trace],
        plot.heat_layout(430, *axes, "sequential", cmin=0, cmax=1, colorbar={"tickformat": ".0%"}),
        Control("Show", options) if len(options) > 1 else None,
    )


def _round(run: RunData) -> str:
    return f"round {run.summary['rounds']}"


def _stage(run: RunData, stage: ModelView) -> str:
    if not run.changed(stage.model):
        return "as trained"
    return f"{'before' if stage.before else 'after'} {run.last_step}"


def _bars(run: RunData, view: View, group: str, after: Floats, before: Floats | None) -> Json:
    members = [c for c in run.by_count if run.groups[c] == group]
    old, tests = after if before is None else before, run.class_tests[ModelView(view)]
    hover = "<b>%{x}</b> (" + group + "-shot, %{customdata[0]} training images)<br>%{y:.1%} of %{customdata[2]} images"
    return {
        "type": "bar",
        "name": group,
        "x": plot.texts(run.class_names[c] for c in members),
        "y": plot.numbers(after[members]),
        "marker": {"color": SHOT_COLORS[group]},
        "customdata": [[int(run.class_counts[c]), percent(old[c]), int(tests[c])] for c in members],
        "hovertemplate": hover + ("" if before is None else ", before %{customdata[1]}") + "<extra></extra>",
    }


def _orders(run: RunData, after: Floats, before: Floats | None) -> dict[str, Ints]:
    known = np.nan_to_num(after, nan=-1.0)
    orders = {"training images": run.by_count, "accuracy": np.argsort(-known, kind="stable")}
    if before is not None:
        orders[f"gain by {run.last_step}"] = np.argsort(-np.nan_to_num(after - before, nan=-2.0), kind="stable")
    orders["name"] = np.array(sorted(range(len(known)), key=lambda c: run.class_names[c]), dtype=np.int64)
    return orders


def _cells(matrix: Confusion, order: Ints) -> Json:
    shares = matrix.shares(order)
    return {
        "z": [plot.grid(shares)],
        "customdata": [matrix.block(order).tolist()],
        "text": [plot.cell_texts(shares, plot.share_text)],
    }
