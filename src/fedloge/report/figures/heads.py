"""Figures of the classifiers: row norms against class counts, and the angles of a fixed frame."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats
from fedloge.etf import geometry
from fedloge.plotting import MUTED, RUN_COLORS, SYMBOLS, signed, thin
from fedloge.report.figures import plot
from fedloge.report.figures.panel import Control, Json, Option, Panel, client_label
from fedloge.report.run_data import HeadNorms, RunData

MAX_PAIRED = 2000
"""Largest number of classes whose pairs are measured: beyond that their angles need gigabytes of memory."""

ROUNDING = 1e-6
"""Relative size of what remains of a zero in float32, in which classifiers are saved."""

MAX_POINTS = 50_000
"""Largest number of points of all clients' classifiers in a page: beyond that, the last clients are left out."""


def shared_norms(run: RunData, key: str) -> Panel | None:
    """Row norms of the classifier that all clients share, against the training images of each class."""
    if not run.shared_heads:
        return None
    traces = []
    for head in run.shared_heads:
        for stage, name in head_stages(run, head).items():
            traces.append(_points(run, head.norms[stage], run.class_counts, f"{symbol(head)} {name}", stage))
    caption = (
        "Norm of each class's row of the shared classifier against the training images of the class over all clients. "
        "Norms that grow with the count favour the frequent classes."
    )
    title = f"Classifier norms, {', '.join(symbol(head) for head in run.shared_heads)}"
    return Panel(
        key,
        title,
        caption,
        traces,
        plot.layout(showlegend=len(traces) > 1, **_norm_axes(run.class_counts, "training images of the class")),
    )


def client_norms(run: RunData, key: str) -> Panel | None:
    """Row norms of the classifier of a client, which the reader chooses, against that client's training images."""
    if not run.client_heads:
        return None
    counts = run.partition.train_counts
    lines = [(head, stage, name) for head in run.client_heads for stage, name in head_stages(run, head).items()]
    having = np.any([np.isfinite(head.norms[stage]).any(1) for head, stage, _ in lines], axis=0)
    known = np.flatnonzero(having).tolist()
    shown = known[: max(1, MAX_POINTS // (len(lines) * len(run.class_names)))]
    options = [Option(client_label(run.partition.label(k)), _chosen(run, lines, k), {}) for k in shown]
    traces = [
        _points(run, head.norms[stage][shown[0]], counts[shown[0]], f"{symbol(head)} {name}", stage)
        for head, stage, name in lines
    ]
    caption = "Norm of each class's row of the client's own classifier against the client's images of that class."
    if len(known) < len(counts):
        caption += f" {len(counts) - len(known)} of {len(counts)} clients, which never took part, have none."
    if len(shown) < len(known):
        caption += f" The first {len(shown)} of {len(known)} clients can be chosen."
    title = f"Classifier norms of a client, {', '.join(symbol(head) for head in run.client_heads)}"
    axes = _norm_axes(counts, "own training images of the class")
    return Panel(
        key, title, caption, traces, plot.layout(showlegend=len(traces) > 1, **axes), Control("Client", options)
    )


def frame(run: RunData, name: str, key: str) -> Panel:
    """Cosines between the rows of a fixed classifier."""
    order = thin(run.by_count)
    names = [run.class_names[c] for c in order]
    unit = functional.normalize(run.frames[name].double())[torch.from_numpy(order)]
    trace = plot.heat_map(names, names, "%{y} · %{x}<br>cosine %{z:.4f}", z=plot.grid((unit @ unit.T).tolist(), 4))
    num_classes = len(run.class_names)
    ideal = -1 / (num_classes - 1)
    caption = (
        "Cosine between the rows of every two classes of the fixed classifier. In an equiangular frame of "
        f"{num_classes} classes it is {signed(ideal, 4)} for all pairs." + plot.thinned_note(num_classes)
    )
    axis = plot.heat_names("", names)
    shown = plot.heat_layout(400, axis, axis, "diverging", cmin=-1, cmax=1)
    title = f"Cosines between the classes of {SYMBOLS.get(name, name)}"
    return Panel(key, title, caption, [trace], shown)


def frame_rows(run: RunData, name: str) -> list[tuple[str, str, str]]:
    """Geometry of a fixed classifier: quantity, value, and value in an equiangular frame."""
    frame = run.frames[name]
    zeros = float((frame == 0).double().mean())
    rows = [
        ("rows × columns", f"{frame.shape[0]} × {frame.shape[1]}", ""),
        ("share of zeros", f"{zeros:.3f}", ""),
    ]
    if len(frame) > MAX_PAIRED:
        return rows
    found = geometry(frame)
    ideal = -1 / (len(frame) - 1)
    return [
        *rows,
        ("row norm, mean", f"{found.norm_mean:.4f}", ""),
        ("row norm, variance", _small(found.norm_var, (ROUNDING * found.norm_mean) ** 2), "0"),
        ("angle, mean", f"{found.angle_mean:.3f}°", f"{math.degrees(math.acos(ideal)):.3f}°"),
        ("angle, variance", _small(found.angle_var, math.degrees(ROUNDING) ** 2, " deg²"), "0"),
        ("largest error of a cosine", _small(found.max_cos_error, ROUNDING), "0"),
    ]


def _small(value: float, rounding: float, unit: str = "") -> str:
    """A number near 0, which is 0 where the rounding of float32 explains it."""
    return "0" if value <= rounding else f"{value:.2e}{unit}"


def symbol(head: HeadNorms) -> str:
    """Name of a classifier in figures."""
    return SYMBOLS.get(head.name, head.name)


def head_stages(run: RunData, head: HeadNorms) -> dict[str, str]:
    """Stages of a classifier with their names; a single one if the last step did not change the classifier."""
    trained, final = head.norms.get("trained"), head.norms.get("final")
    if trained is None or final is None:
        return {next(iter(head.norms)): "as trained" if final is None else f"after {run.last_step}"}
    if np.array_equal(trained, final, equal_nan=True):
        return {"trained": "as trained"}
    return {"trained": "as trained", "final": f"after {run.last_step}"}


def _points(run: RunData, norms: Floats, counts: Ints, name: str, stage: str) -> Json:
    color = RUN_COLORS[stage != "trained"]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [int(n) + 1 for n in counts],
        "y": plot.numbers(norms),
        "text": plot.texts(run.class_names),
        "customdata": [int(n) for n in counts],
        "marker": {
            "size": 9,
            "color": color,
            "symbol": "circle-open" if stage == "trained" else "diamond",
            "line": {"width": 2, "color": color},
        },
        "hovertemplate": "<b>%{text}</b>, %{customdata} images<br>norm %{y:.3f}",
    }


def _chosen(run: RunData, lines: list[tuple[HeadNorms, str, str]], client: int) -> Json:
    counts = run.partition.train_counts[client]
    return {
        "x": [[int(n) + 1 for n in counts]] * len(lines),
        "y": [plot.numbers(head.norms[stage][client]) for head, stage, _ in lines],
        "customdata": [[int(n) for n in counts]] * len(lines),
    }


def _norm_axes(counts: Ints, title: str) -> Json:
    """A logarithmic axis of counts, shifted by one to show 0, and an axis of norms."""
    top = max(int(counts.max()), 1)
    ticks = [0, *(factor * 10**power for power in range(6) for factor in (1, 3) if factor * 10**power <= top)]
    return {
        "xaxis": {
            "title": {"text": f"{title} (log)"},
            "type": "log",
            "tickvals": [tick + 1 for tick in ticks],
            "ticktext": [str(tick) for tick in ticks],
            "range": [-0.1 if counts.min() == 0 else math.log10(counts.min() + 1) - 0.1, math.log10(top + 1) + 0.1],
            "zeroline": False,
        },
        "yaxis": {"title": {"text": "row norm"}, "rangemode": "tozero", "zerolinecolor": MUTED},
    }
