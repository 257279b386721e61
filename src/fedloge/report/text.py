"""The report as text: Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from fedloge.markup import markdown_text
from fedloge.plotting import percent
from fedloge.report import headline
from fedloge.report.figures.clients import worst_words
from fedloge.report.run_data import RunData
from fedloge.runs.measures import KINDS
from fedloge.runs.tables import ModelView
from fedloge.tables import Table


def markdown(runs: Sequence[RunData]) -> str:
    """Facts, warnings, headline numbers, accuracies by class, the worst clients and differing options, as Markdown."""
    blocks = [f"# {markdown_text(', '.join(run.name for run in runs))}"]
    blocks += [_facts(run) for run in runs]
    blocks += [f"> {markdown_text(warning)}" for warning in headline.warnings(runs)]
    blocks += [table.markdown() for table in headline.tables(runs)]
    blocks += [f"Last round, on test images. Classes: {markdown_text(headline.shot_words(runs))}."]
    for run in runs:
        blocks += [table.markdown() for table in (class_table(run),) if table.rows]
        if ModelView("personal") in run.clients:
            blocks.append(f"{markdown_text(run.name)}: {worst_words(run.clients[ModelView('personal')])}")
    difference = headline.differences(runs)
    blocks += [difference.markdown()] if difference else []
    return "\n\n".join(blocks) + "\n"


def class_table(run: RunData) -> Table:
    """Accuracy of every class by each model, the class with the most training images first."""
    columns = {view: KINDS[view.model] + (", before" if view.before else "") for view in run.class_accuracy}
    rows = [
        [run.class_names[c], run.groups[c], f"{run.class_counts[c]}"]
        + [percent(float(run.class_accuracy[view][c])) for view in columns]
        for c in run.by_count
    ]
    title = f"Accuracy by class, {run.name}"
    return Table(title, ["class", "group", "training images", *columns.values()], rows, names=2)


def comma_separated(runs: Sequence[RunData]) -> str:
    """One row per number: run, method, seed, round, model, stage (``trained`` or ``final``), item, measure, value.

    The item is ``class NAME`` or ``client NAME``, or empty for a number of the whole run. Accuracies lie in [0, 1].
    """
    columns = ["run", "method", "seed", "round", "model", "stage", "item", "measure", "value"]
    rows = []
    for run in runs:
        about = [run.name, run.method, run.summary["seed"], run.summary["rounds"]]
        rows += [[*about, *cells] for cells in _numbers(run)]
    return Table("", columns, rows).csv("\n")


def _numbers(run: RunData) -> list[list[object]]:
    rows: list[list[object]] = []
    for view, model in KINDS.items():
        for stage, before in (("trained", True), ("final", False)):
            part = run.headline(view, before) or {}
            rows += [[model, stage, "", measure, value] for measure, value in part.items() if value is not None]
            classes = run.class_accuracy.get(ModelView(view, before))
            if classes is not None:
                known = [c for c in range(len(classes)) if classes[c] == classes[c]]
                rows += [[model, stage, f"class {run.class_names[c]}", "accuracy", f"{classes[c]:.6f}"] for c in known]
            scores = run.clients.get(ModelView(view, before))
            if scores is not None:
                pairs = zip(scores.label, scores.accuracy, strict=True)
                rows += [[model, stage, f"client {k}", "accuracy", f"{value:.6f}"] for k, value in pairs]
    return rows


def _facts(run: RunData) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in headline.facts(run))
    return f"**{markdown_text(run.name)}**: {markdown_text(facts)}."
