"""Figures by class: accuracies as bars, and the confusion matrix."""

from __future__ import annotations

import numpy as np

from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats
from fedloge.evaluation.shots import SHOTS
from fedloge.methods.base import View
from fedloge.plotting import SHOT_COLORS, percent, thin
from fedloge.report.figures.base import (
    BEFORE_BAR,
    Control,
    Json,
    Option,
    Panel,
    category_axis,
    color_axis,
    grid,
    heat_axes,
    heat_map,
    heat_names,
    layout,
    numbers,
    percent_axis,
    thinned_note,
)
from fedloge.report.run_data import Confusion, RunData
from fedloge.runs.measures import KINDS
from fedloge.runs.tables import ModelView

TESTS = {
    "global": "on the global test set",
    "personal": "on the clients' own test sets, all clients together",
}


def class_accuracy(run: RunData, view: View, key: str) -> Panel | None:
    """Accuracy of every class as bars, coloured many/medium/few, with that before the last step within them."""
    after = run.class_accuracy.get(ModelView(view))
    if after is None:
        return None
    before = run.class_accuracy.get(ModelView(view, before=True))
    traces = [_bars(run, view, group, after, before) for group in SHOTS]
    caption = f"Share of each class's images recognised by the {_models(view)} {TESTS[view]}, round {_round(run)}."
    if before is not None:
        traces.append(_before(run, before))
        caption += f" Wide bars: after {run.last_step}; narrow bars: before."
    if view == "personal":
        caption += " Of rare classes these are few images: hover for how many."
    untested = int(np.isnan(after).sum())
    if untested:
        caption += f" {untested} class(es) without test images have no bar."
    order = [run.class_names[c] for c in run.by_count]
    axes: Json = {"xaxis": category_axis("class", order), "yaxis": percent_axis("accuracy")}
    options = [
        Option(label, {}, {"xaxis.categoryarray": [run.class_names[c] for c in chosen]})
        for label, chosen in _orders(run, after, before).items()
    ]
    title = f"Accuracy, {_models(view)}"
    return Panel(key, title, caption, traces, layout(barmode="overlay", bargap=0.15, **axes), Control("Sort", options))


def confusion(run: RunData, view: View, key: str) -> Panel | None:
    """Confusion matrix, each row in shares of the true class; before the last step where the reader asks for it."""
    stages = [ModelView(view, before) for before in (False, True)]
    shown = [stage for stage in stages if stage in run.confusion]
    if not shown:
        return None
    order = thin(run.by_count)
    names = [run.class_names[c] for c in order]
    options = [Option(_stage(run, stage), _cells(run.confusion[stage], order), {}) for stage in shown]
    hover = "true %{y}<br>predicted %{x}<br>%{z:.1%} of the class (%{customdata} images)"
    first = {name: value[0] for name, value in options[0].data.items()}
    trace = heat_map(names, names, hover, texttemplate="%{text}", **first)
    axes = heat_axes(heat_names("predicted class", names), heat_names("true class", names))
    colors = color_axis("sequential", cmin=0, cmax=1, colorbar={"tickformat": ".0%"})
    caption = (
        f"Rows: true class; columns: what the {_models(view)} said {TESTS[view]}, round {_round(run)}; both sorted by "
        "training images, most first. The diagonal is right." + thinned_note(len(run.class_names))
    )
    control = Control("Show", options) if len(options) > 1 else None
    chosen = layout(height=430, showlegend=False, **axes, **colors)
    return Panel(key, f"Confusion, {_models(view)}", caption, [trace], chosen, control)


def _round(run: RunData) -> int:
    return int(run.summary["rounds"])


def _models(view: View) -> str:
    return f"{KINDS[view]} model" + ("s" if view == "personal" else "")


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
        "x": [run.class_names[c] for c in members],
        "y": numbers(after[members]),
        "marker": {"color": SHOT_COLORS[group]},
        "customdata": [[int(run.class_counts[c]), percent(old[c]), int(tests[c])] for c in members],
        "hovertemplate": hover + ("" if before is None else ", before %{customdata[1]}") + "<extra></extra>",
    }


def _before(run: RunData, before: Floats) -> Json:
    return {
        **BEFORE_BAR,
        "name": "before",
        "x": list(run.class_names),
        "y": numbers(before),
        "hoverinfo": "skip",
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
    text = [[f"{100 * share:.0f}" if share >= 0.005 else "" for share in row] for row in shares]
    few = len(order) <= 12
    return {
        "z": [grid(shares)],
        "customdata": [matrix.block(order).tolist()],
        "text": [text if few else []],
    }
