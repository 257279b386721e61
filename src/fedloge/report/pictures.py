"""Pictures (PNG) of runs and of partitions, for slides and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedloge.data.partition import Partition
from fedloge.data.splits import Ints
from fedloge.evaluation.shots import SHOTS
from fedloge.markup import matplotlib_text
from fedloge.methods.base import View
from fedloge.plotting import MUTED, RUN_COLORS, SHOT_COLORS, empty_figure, png, thin
from fedloge.report import headline
from fedloge.report.figures.curves import run_color, stage_values
from fedloge.report.figures.heads import head_stages, symbol
from fedloge.report.run_data import RunData
from fedloge.runs.measures import GM, KINDS, MODELS, PM
from fedloge.runs.tables import ModelView

DPI = 130

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
"""Plain numbers, such as 100, for the ticks of a logarithmic axis."""


def picture(runs: Sequence[RunData]) -> bytes:
    """The main figures of one run, or of several runs in columns, as PNG."""
    panels = (_class_panel("global"), _class_panel("personal"), _client_panel, _confusion_panel)
    columns = max(len(runs), 2)
    figure = empty_figure(6.2 * columns, 4 + 3.1 * (len(panels) if len(runs) > 1 else 3))
    figure.suptitle(_title(runs), fontsize=13)
    heights = [1, len(panels) if len(runs) > 1 else 3]
    top, rest = figure.subfigures(2, 1, height_ratios=heights, squeeze=False).flat
    for axes, view in zip(top.subplots(1, 2), KINDS, strict=True):
        _curve_panel(axes, runs, view)
    if len(runs) > 1:
        for row, panel in zip(rest.subplots(len(panels), len(runs)), panels, strict=True):
            for axes, run in zip(row, runs, strict=True):
                panel(axes, run)
                parts = (matplotlib_text(run.name), axes.get_title())
                axes.set_title(": ".join(part for part in parts if part), fontsize=10)
    else:
        grid = rest.subplots(3, 2).flat
        for axes, single in zip(grid, (*panels, _partition_panel, _norm_panel), strict=True):
            single(axes, runs[0])
    return png(figure, DPI)


def partition_picture(partition: Partition, class_names: Sequence[str]) -> bytes:
    """Client × class heat map of the training images, most frequent class first, as PNG."""
    clients, classes = partition.train_counts.shape
    size = (min(16.0, 3 + 0.45 * classes), min(16.0, 2 + 0.3 * clients))
    figure = empty_figure(max(size[0], 6.5), max(size[1], 4.0))
    axes = figure.subplots()
    order = np.argsort(-partition.train_counts.sum(0), kind="stable")
    _partition_map(axes, partition, order, class_names)
    about = partition.scheme + (f", α {partition.alpha:g}" if partition.has_alpha else "")
    axes.set_title(f"{clients} clients, {about}, {partition.imbalance}, {partition.sha256[:12]}", fontsize=9)
    return png(figure, DPI)


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) > 1:
        return " · ".join(matplotlib_text(run.name) for run in runs)
    known = dict(headline.facts(runs[0]))
    about = [known["long tail"], f"clients: {known['clients']}", f"round {known['rounds']}", f"seed {known['seed']}"]
    return f"{known['method']} on {matplotlib_text(runs[0].summary['dataset'])}: " + ", ".join(about)


# Panels ------------------------------------------------------------------------------------------------------

Panel = Callable[[Axes, RunData], None]


def _curve_panel(axes: Axes, runs: Sequence[RunData], view: View) -> None:
    shown, old = ModelView(view), ModelView(view, before=True)
    key = {"global": GM, "personal": PM}[view].name
    column = shown.prefix + key
    for position, run in enumerate(runs):
        if column in run.metrics:
            color, rounds = run_color(position), run.metrics["round"]
            label = f"after {run.last_step}" if run.changed(view) else "as trained"
            label = matplotlib_text(run.name) if len(runs) > 1 else label
            axes.plot(rounds, 100 * stage_values(run, shown, key), color=color, label=label, marker=".", ms=4)
            if run.changed(view) and old.prefix + key in run.metrics:
                label = "as trained" if len(runs) == 1 else ""
                axes.plot(rounds, 100 * stage_values(run, old, key), color=color, alpha=0.7, ls=":", label=label)
    title = "generic model, global test set" if view == "global" else "personal models, own test sets, mean of clients"
    _percent_axes(axes, title, "round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.has_data():
        axes.legend(fontsize=8, loc="lower right")
    else:
        _absent(axes, "no learning curves")


def _class_panel(view: View) -> Panel:
    def panel(axes: Axes, run: RunData) -> None:
        after, before = (run.class_accuracy.get(ModelView(view, before)) for before in (False, True))
        if after is None:
            _absent(axes, f"no {KINDS[view]} model")
            return
        order = run.by_count
        groups = np.array(run.groups)[order]
        for group in SHOTS:
            chosen = np.flatnonzero(groups == group)
            axes.bar(chosen, 100 * after[order][chosen], color=SHOT_COLORS[group], label=group)
        if before is not None:
            axes.bar(range(len(order)), 100 * before[order], width=0.22, color="#00000090", label="before")
        _percent_axes(axes, f"accuracy by class, {MODELS[view]}, round {run.summary['rounds']}", "class")
        _names(axes, [run.class_names[c] for c in order])
        axes.set_ylim(0, 118)
        axes.legend(fontsize=8, ncols=4, loc="upper center", frameon=False, columnspacing=1.2)

    return panel


def _client_panel(axes: Axes, run: RunData) -> None:
    scores, old = (run.clients.get(ModelView("personal", before)) for before in (False, True))
    if scores is None:
        _absent(axes, "no personal models")
        return
    order = np.argsort(scores.accuracy, kind="stable")
    colors = [RUN_COLORS[0]] * len(order)
    colors[: len(scores.worst_tenth())] = [SHOT_COLORS["few"]] * len(scores.worst_tenth())
    axes.bar(range(len(order)), 100 * scores.accuracy[order], color=colors)
    if old is not None:
        axes.bar(range(len(order)), 100 * old.accuracy[order], width=0.22, color="#00000090")
    axes.axhline(100 * float(np.nanmean(scores.accuracy)), color=MUTED, ls="--", lw=1.2)
    _percent_axes(axes, "accuracy by client on its own test set, the worst tenth in red", "client")
    _names(axes, [scores.label[k] for k in order])


def _confusion_panel(axes: Axes, run: RunData) -> None:
    view = next((view for view in KINDS if ModelView(view) in run.confusion), None)
    if view is None:
        _absent(axes, "no confusion matrix")
        return
    order = thin(run.by_count)
    image = axes.imshow(100 * run.confusion[ModelView(view)].shares(order), cmap="Blues", vmin=0, vmax=100)
    _color_bar(axes, image, "% of the class")
    names = [run.class_names[c] for c in order]
    _names(axes, names)
    if len(names) <= 30:
        axes.set_yticks(range(len(names)), labels=[matplotlib_text(name) for name in names], fontsize=9)
    axes.set(xlabel="predicted", ylabel="true", aspect="auto")
    axes.set_title(f"confusion, {MODELS[view]}, most training images first", fontsize=10)


def _partition_panel(axes: Axes, run: RunData) -> None:
    _partition_map(axes, run.partition, run.by_count, run.class_names)
    axes.set_title("training images by client and class", fontsize=10)


def _partition_map(axes: Axes, partition: Partition, order: Ints, class_names: Sequence[str]) -> None:
    counts = partition.train_counts[:, order]
    shown = np.ma.masked_equal(counts, 0)
    image = axes.imshow(
        shown, cmap="Blues", norm=LogNorm(0.7, max(counts.max(), 2)), aspect="auto", interpolation="none"
    )
    _color_bar(axes, image, "images (log)")
    if counts.shape[1] <= 12 and len(counts) <= 20:
        for (k, c), n in np.ndenumerate(counts):
            if n:
                light = np.log(n / 0.7) > 0.6 * np.log(max(counts.max(), 2) / 0.7)
                axes.text(c, k, str(n), ha="center", va="center", fontsize=7, color="white" if light else "black")
    axes.set(xlabel="class, most training images first", ylabel="client")
    _names(axes, [class_names[c] for c in order])
    if len(counts) <= 30:
        axes.set_yticks(range(len(counts)), labels=[partition.label(k) for k in range(len(counts))], fontsize=9)


def _norm_panel(axes: Axes, run: RunData) -> None:
    if not run.shared_heads:
        _absent(axes, "no trained classifier is shared")
        return
    for head in run.shared_heads:
        for stage, name in head_stages(run, head).items():
            marker, color = ("o", RUN_COLORS[0]) if stage == "trained" else ("D", RUN_COLORS[1])
            label = f"{symbol(head)} {name}"
            axes.plot(run.class_counts, head.norms[stage], marker, mfc="none", color=color, label=label, ms=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set(xlabel="training images of the class (log)", ylabel="row norm")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title("norms of the shared classifier", fontsize=10)


def _percent_axes(axes: Axes, title: str, xlabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 102))
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=10)


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Label the ticks of up to 50 names."""
    labels = [matplotlib_text(name) for name in names] if len(names) <= 50 else []
    long = sum(map(len, labels)) > 40
    axes.set_xticks(
        range(len(labels)), labels=labels, rotation=60 if long else 0, ha="right" if long else "center", fontsize=9
    )


def _color_bar(axes: Axes, image: ScalarMappable, label: str) -> None:
    axes.figure.colorbar(image, ax=axes, label=label, format=PLAIN).ax.minorticks_off()


def _absent(axes: Axes, words: str) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", color=MUTED, transform=axes.transAxes)
