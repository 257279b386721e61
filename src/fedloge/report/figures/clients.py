"""Figures by client: accuracies as bars, and the classes that each client holds."""

from __future__ import annotations

import numpy as np

from fedloge.data.splits import Ints
from fedloge.data.statistics import shares
from fedloge.evaluation.shots import SHOTS
from fedloge.plotting import MUTED, RUN_COLORS, SHOT_COLORS, percent, thin
from fedloge.report.figures import plot
from fedloge.report.figures.panel import Control, Json, Option, Panel, client_label, sort_control
from fedloge.report.run_data import ClientScores, RunData
from fedloge.runs.tables import ModelView

NAMED = 5
"""Number of worst clients that a caption names."""


def client_accuracy(run: RunData, key: str) -> Panel | None:
    """Accuracy of every client's personal model, sorted, with the worst tenth of the clients in another colour."""
    scores = run.clients.get(ModelView("personal"))
    if scores is None:
        return None
    worst = scores.worst_tenth()
    rest = np.setdiff1d(np.arange(len(scores.client)), worst)
    traces = [
        _bars(scores, rest, "others", RUN_COLORS[0]),
        _bars(scores, worst, "worst tenth", SHOT_COLORS["few"]),
    ]
    before = run.clients.get(ModelView("personal", before=True))
    if before is not None:
        hover = "client %{x} before: %{y:.1%}<extra></extra>"
        y = plot.numbers(before.accuracy)
        traces.append(plot.narrow_bars("before", before.label, y=y, hovertemplate=hover))
    orders = {
        "accuracy": _labels(scores, np.argsort(scores.accuracy, kind="stable")),
        "training images": _labels(scores, np.argsort(-scores.n_train, kind="stable")),
        "client": _labels(scores, np.argsort(scores.client)),
    }
    mean = _mean_line(float(np.nanmean(scores.accuracy)))
    axes = (plot.category_axis("client", orders["accuracy"]), plot.percent_axis("accuracy"))
    bars = f" Wide bars: after {run.last_step}; narrow bars: before." if before is not None else ""
    caption = (
        f"Each client's personal model on its own test set, round {run.summary['rounds']}.{bars} {worst_words(scores)} "
        "Accuracies on small test sets are uncertain: hover for their sizes."
    )
    shown = plot.bar_layout(*axes, shapes=[mean])
    return Panel(key, "Accuracy by client", caption, traces, shown, sort_control(orders))


def client_images(run: RunData, key: str) -> Panel:
    """Images of each class held by a client, which the reader chooses."""
    order = thin(run.by_count)
    train, test = run.partition.train_counts[:, order], run.partition.test_counts[:, order]
    names = [run.class_names[c] for c in order]
    members = [[i for i, c in enumerate(order) if run.groups[c] == group] for group in SHOTS]
    bars = [
        {
            "type": "bar",
            "name": group,
            "x": plot.texts(names[i] for i in chosen),
            "marker": {"color": SHOT_COLORS[group]},
            "hovertemplate": "<b>%{x}</b>: %{y} training images<extra></extra>",
        }
        for group, chosen in zip(SHOTS, members, strict=True)
    ]
    tests = plot.narrow_bars("test", names, hovertemplate="<b>%{x}</b>: %{y} test images<extra></extra>")
    heights = [[*(train[k, chosen].tolist() for chosen in members), test[k].tolist()] for k in range(len(train))]
    traces = [{**trace, "y": y} for trace, y in zip((*bars, tests), heights[0], strict=True)]
    caption = (
        "Images of a client by class; the classes with the most training images of all clients come first. Wide bars: "
        "training images; narrow bars: the client's own test images." + plot.thinned_note(len(run.class_names))
    )
    axes = (plot.category_axis("class", names), {"title": {"text": "images"}, "rangemode": "tozero"})
    options = [Option(client_label(run.partition.label(k)), {"y": y}, {}) for k, y in enumerate(heights)]
    return Panel(key, "Images of a client", caption, traces, plot.bar_layout(*axes), Control("Client", options))


def worst_words(scores: ClientScores) -> str:
    """Sentence that names the worst tenth of the clients."""
    worst = scores.worst_tenth()
    named = ", ".join(
        f"client {scores.label[k]} ({percent(scores.accuracy[k])} of {scores.n_test[k]} images)" for k in worst[:NAMED]
    )
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    mean = f", {percent(float(scores.accuracy[worst].mean()))} on average" if len(worst) > 1 else ""
    return f"Worst tenth: {named}{more}{mean}."


def partition(run: RunData, key: str) -> Panel:
    """Client × class heat map: training images, their shares of the client, or test images."""
    order = thin(run.by_count)
    train, test = run.partition.train_counts, run.partition.test_counts
    options = [
        _counts("training images", train, order),
        _shares("share of the client's training images", train, order),
        _counts("local test images", test, order),
    ]
    names = [run.class_names[c] for c in order]
    labels = [run.partition.label(k) for k in range(len(train))]
    first = options[0]
    cells = {name: value[0] for name, value in first.data.items()}
    trace = plot.heat_map(names, labels, "client %{y}<br>%{x}: %{customdata}", texttemplate="%{text}", **cells)
    vertical: Json = {"title": {"text": "client"}, "type": "category"}
    axes = (plot.heat_names("class, most training images first", names), vertical)
    caption = (
        "Images of each class that each client holds; an empty cell marks a class that the client does not have. "
        "Colours of counts are on a logarithmic scale." + plot.thinned_note(len(run.class_names))
    )
    height, cmax = min(900, max(320, 100 + 24 * len(labels))), first.layout["coloraxis.cmax"]
    shown = plot.heat_layout(height, *axes, "sequential", cmin=0, cmax=cmax, colorbar=_log_ticks(train))
    return Panel(key, "Who holds which classes", caption, [trace], shown, Control("Show", options))


def _labels(scores: ClientScores, positions: Ints) -> list[str]:
    return [scores.label[k] for k in positions]


def _bars(scores: ClientScores, which: Ints, name: str, color: str) -> Json:
    return {
        "type": "bar",
        "name": name,
        "x": _labels(scores, which),
        "y": plot.numbers(scores.accuracy[which]),
        "marker": {"color": color},
        "customdata": [[int(scores.n_train[k]), int(scores.n_test[k]), percent(scores.macro_f1[k])] for k in which],
        "hovertemplate": (
            "<b>client %{x}</b>: %{y:.1%} of %{customdata[1]} test images<br>"
            "macro F1 %{customdata[2]}, %{customdata[0]} training images<extra></extra>"
        ),
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
        "z": [plot.grid(np.log10(1 + chosen))],
        "customdata": [chosen.tolist()],
        "text": [plot.cell_texts(chosen, lambda n: str(n) if n else "")],
    }
    ticks = {f"coloraxis.colorbar.{name}": value for name, value in _log_ticks(counts).items()}
    return Option(label, data, {"coloraxis.cmax": float(np.log10(1 + max(counts.max(), 1))), **ticks})


def _shares(label: str, counts: Ints, order: Ints) -> Option:
    own = shares(counts)
    chosen = own[:, order]
    data = {
        "z": [plot.grid(chosen)],
        "customdata": [[[percent(share) for share in row] for row in chosen]],
        "text": [plot.cell_texts(chosen, plot.share_text)],
    }
    ticks = np.linspace(0, 1, 6)
    bar = {"coloraxis.colorbar.tickvals": ticks.tolist(), "coloraxis.colorbar.ticktext": [f"{t:.0%}" for t in ticks]}
    return Option(label, data, {"coloraxis.cmax": 1.0, **bar})


def _log_ticks(counts: Ints) -> Json:
    ticks = [0, *(10**power for power in range(int(np.log10(max(counts.max(), 1))) + 1))]
    return {"tickvals": plot.numbers(np.log10(1 + np.array(ticks))), "ticktext": [str(tick) for tick in ticks]}
