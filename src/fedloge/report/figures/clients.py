"""Figures by client: accuracies as bars, and who holds which classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats, shares
from fedloge.evaluation.shots import SHOTS
from fedloge.plotting import MUTED, RUN_COLORS, SHOT_COLORS, percent, thin
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
from fedloge.report.run_data import ClientScores, RunData
from fedloge.runs.tables import ModelView

NAMED = 5
"""How many of the worst clients a caption names."""


def client_accuracy(run: RunData, key: str) -> Panel | None:
    """Accuracy of every client's model, sorted, the worst tenth in a colour of its own."""
    scores = run.clients.get(ModelView("personal"))
    if scores is None:
        return None
    mean, worst = float(np.nanmean(scores.accuracy)), scores.worst_tenth()
    labels = [str(client) for client in scores.client]
    rest = np.setdiff1d(np.arange(len(labels)), worst)
    traces = [
        _bars(scores, rest, "others", RUN_COLORS[0]),
        _bars(scores, worst, "worst tenth", SHOT_COLORS["few"]),
    ]
    before = run.clients.get(ModelView("personal", before=True))
    if before is not None:
        traces.append(_before(before))
    orders = {
        "accuracy": np.argsort(scores.accuracy, kind="stable"),
        "training images": np.argsort(-scores.n_train, kind="stable"),
        "client": np.argsort(scores.client),
    }
    options = [
        Option(label, {}, {"xaxis.categoryarray": [labels[k] for k in order]}) for label, order in orders.items()
    ]
    shown = layout(
        barmode="overlay",
        bargap=0.15,
        xaxis=category_axis("client", options[0].layout["xaxis.categoryarray"]),
        yaxis=percent_axis("accuracy"),
        shapes=[_mean_line(mean)],
    )
    bars = f" Wide bars: after {run.last_step}; narrow bars: before." if before is not None else ""
    caption = (
        f"Each client's model on that client's own test set, round {run.summary['rounds']}.{bars} "
        f"{worst_words(scores)} "
        "Small test sets make an accuracy uncertain: hover for their sizes."
    )
    return Panel(key, "Accuracy by client", caption, traces, shown, Control("Sort", options))


def client_images(run: RunData, key: str) -> Panel:
    """How many images of each class a client holds that the reader chooses."""
    order = thin(run.by_count)
    train, test = run.partition.train_counts[:, order], run.partition.test_counts[:, order]
    names = [run.class_names[c] for c in order]
    members = [[i for i, c in enumerate(order) if run.groups[c] == group] for group in SHOTS]
    bars = [
        {
            "type": "bar",
            "name": group,
            "x": [names[i] for i in chosen],
            "marker": {"color": SHOT_COLORS[group]},
            "hovertemplate": "<b>%{x}</b>: %{y} training images<extra></extra>",
        }
        for group, chosen in zip(SHOTS, members, strict=True)
    ]
    tests = {**BEFORE_BAR, "name": "test", "x": names, "hovertemplate": "<b>%{x}</b>: %{y} test images<extra></extra>"}
    heights = [[*(train[k, chosen].tolist() for chosen in members), test[k].tolist()] for k in range(len(train))]
    traces = [{**trace, "y": y} for trace, y in zip((*bars, tests), heights[0], strict=True)]
    caption = (
        "Images of a client by class, most frequent class of the federation first. Wide bars: training images; narrow "
        "bars: the client's own test images." + thinned_note(len(run.class_names))
    )
    axes: Json = {"xaxis": category_axis("class", names), "yaxis": {"title": {"text": "images"}, "rangemode": "tozero"}}
    options = [Option(client_label(k), {"y": y}, {}) for k, y in enumerate(heights)]
    shown = layout(barmode="overlay", bargap=0.15, **axes)
    return Panel(key, "Images of a client", caption, traces, shown, Control("Client", options))


def client_label(client: int) -> str:
    """How controls call a client: the same everywhere, so that a choice holds for all figures."""
    return f"client {client}"


def worst_words(scores: ClientScores) -> str:
    """Names the worst tenth of the clients."""
    worst = scores.worst_tenth()
    named = ", ".join(
        f"client {scores.client[k]} ({percent(scores.accuracy[k])} of {scores.n_test[k]} images)" for k in worst[:NAMED]
    )
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    mean = f", {percent(float(scores.accuracy[worst].mean()))} on average" if len(worst) > 1 else ""
    return f"Worst tenth: {named}{more}{mean}."


def partition(run: RunData, key: str) -> Panel:
    """Client × class heat map of the images, as counts, shares of the client, or local test images."""
    order = thin(run.by_count)
    train, test = run.partition.train_counts, run.partition.test_counts
    options = [
        _counts("training images", train, order),
        _shares("share of the client's training images", train, order),
        _counts("local test images", test, order),
    ]
    names = [run.class_names[c] for c in order]
    labels = [str(k) for k in range(len(train))]
    first = options[0]
    cells = {name: value[0] for name, value in first.data.items()}
    trace = heat_map(names, labels, "client %{y}<br>%{x}: %{customdata}", texttemplate="%{text}", **cells)
    axes = heat_axes(
        heat_names("class, most training images first", names),
        {"title": {"text": "client"}, "type": "category"},
    )
    caption = (
        "How many images of each class every client holds; an empty cell is a class that the client has never seen. "
        "The colours of counts are logarithmic." + thinned_note(len(run.class_names))
    )
    colors = color_axis("sequential", cmin=0, cmax=first.layout["coloraxis.cmax"], colorbar=_log_ticks(train))
    shown = layout(height=min(900, max(320, 100 + 24 * len(labels))), showlegend=False, **axes, **colors)
    return Panel(key, "Who holds which classes", caption, [trace], shown, Control("Show", options))


def _bars(scores: ClientScores, which: Ints, name: str, color: str) -> Json:
    return {
        "type": "bar",
        "name": name,
        "x": [str(scores.client[k]) for k in which],
        "y": numbers(scores.accuracy[which]),
        "marker": {"color": color},
        "customdata": [[int(scores.n_train[k]), int(scores.n_test[k]), percent(scores.macro_f1[k])] for k in which],
        "hovertemplate": (
            "<b>client %{x}</b>: %{y:.1%} of %{customdata[1]} test images<br>"
            "macro F1 %{customdata[2]}, %{customdata[0]} training images<extra></extra>"
        ),
    }


def _before(scores: ClientScores) -> Json:
    return {
        **BEFORE_BAR,
        "name": "before",
        "x": [str(client) for client in scores.client],
        "y": numbers(scores.accuracy),
        "hovertemplate": "client %{x} before: %{y:.1%}<extra></extra>",
    }


def _mean_line(mean: float) -> Json:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": mean,
        "y1": mean,
        "line": {"color": MUTED, "width": 2, "dash": "dash"},
        "name": f"mean {percent(mean)}",
        "showlegend": True,
    }


def _counts(label: str, counts: Ints, order: Ints) -> Option:
    chosen = counts[:, order]
    data = {
        "z": [grid(np.log10(1 + chosen))],
        "customdata": [chosen.tolist()],
        "text": [_text(chosen, lambda n: str(n) if n else "")],
    }
    ticks = {f"coloraxis.colorbar.{name}": value for name, value in _log_ticks(counts).items()}
    return Option(label, data, {"coloraxis.cmax": float(np.log10(1 + max(counts.max(), 1))), **ticks})


def _shares(label: str, counts: Ints, order: Ints) -> Option:
    own = shares(counts)
    chosen = own[:, order]
    data = {
        "z": [grid(chosen)],
        "customdata": [[[percent(share) for share in row] for row in chosen]],
        "text": [_text(chosen, lambda share: f"{100 * share:.0f}" if share >= 0.005 else "")],
    }
    ticks = np.linspace(0, 1, 6)
    bar = {"coloraxis.colorbar.tickvals": ticks.tolist(), "coloraxis.colorbar.ticktext": [f"{t:.0%}" for t in ticks]}
    return Option(label, data, {"coloraxis.cmax": 1.0, **bar})


def _text(values: Ints | Floats, word: Callable[[Any], str]) -> list[list[str]]:
    """Words in the cells, where they have room."""
    return [[word(value) for value in row] for row in values.tolist()] if values.shape[1] <= 12 else []


def _log_ticks(counts: Ints) -> Json:
    ticks = [0, *(10**power for power in range(int(np.log10(max(counts.max(), 1))) + 1))]
    return {"tickvals": numbers(np.log10(1 + np.array(ticks))), "ticktext": [str(tick) for tick in ticks]}
