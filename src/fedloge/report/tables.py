"""The table of a run's accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as RichTable

from fedloge.evaluation.shots import SHOTS
from fedloge.runs.measures import HEADLINES, KINDS, MEASURES, PM_STD, WORST_TENTH, Measure, chosen_on
from fedloge.tables import Table

COLUMNS: Mapping[str, tuple[Measure, ...]] = {
    "accuracy": HEADLINES,
    **{group: (MEASURES[group], MEASURES[f"PM {group}"]) for group in SHOTS},
    "std": (PM_STD,),
    "worst": (WORST_TENTH,),
}
"""Columns of the table: the measures of the generic and the personal models, or of one of them."""

PRIVILEGES = {
    "class_counts": "the server knows all clients' class counts",
    "auxiliary": "the server has training images of its own",
}
"""Meaning of the entries of a method's ``privileged``."""

MASKED = {
    "train": "classes absent from a client's training data are masked",
    "test": "classes absent from a client's test data are masked",
}
"""Meaning of the values of ``trainer.mask_absent`` that mask classes."""


def accuracy_table(summary: Mapping[str, Any]) -> RichTable:
    """Accuracy of the generic and the personal models in percent, before and after realignment or fine-tuning.

    Args:
        summary: ``summary.json``.
    """
    rows = [
        [model, heads, *(_cell(part, measures) for measures in COLUMNS.values())]
        for model, heads, part in accuracy_rows(summary)
    ]
    title = f"{summary['method']} on {summary['dataset']}, round {summary['rounds']} (%)"
    rule, mask = summary["shots"]["rule"], summary["mask_absent"]
    own = " (personal: of the client's own test images)" if summary["shots"].get("personal") == "own" else ""
    note = f"last round; many/medium/few by {rule}{own}; personal: mean over clients, std and worst tenth"
    known = [PRIVILEGES[name] for name in summary.get("privileged", ())]
    known += [MASKED[mask]] if mask in MASKED else []
    note += f"; {selection_words(summary)}" if selection_words(summary) else ""
    note += f"; privileged knowledge: {', '.join(known)}" if known else ""
    return Table(title, ["model", "heads", *COLUMNS], rows, names=2).rich(note)


def accuracy_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float] | None]]:
    """Model, heads and numbers of each row; the numbers are None if the method has no such model."""
    rows: list[tuple[str, str, Mapping[str, float] | None]] = []
    before = summary["before_realignment"]
    for view, model in KINDS.items():
        if before:
            rows.append((model, "trained", before[view]))
        rows.append((model, summary.get("finalized", "realigned") if before else "trained", summary[view]))
    chosen = summary.get("selected")
    return rows + [(model, f"round {chosen['round']}", chosen[view]) for view, model in KINDS.items() if chosen]


def selection_words(summary: Mapping[str, Any]) -> str:
    """Which round was kept beside the last, and by what; empty if none was chosen."""
    chosen = summary.get("selected")
    if not chosen:
        return ""
    return f"round {chosen['round']} was {chosen_on(chosen['metric'])} ({chosen['metric']} {chosen['value']:.4g})"


def _cell(part: Mapping[str, float] | None, measures: Sequence[Measure]) -> str:
    if part is None:
        return "none"
    value = next((part[measure.name] for measure in measures if measure.name in part), None)
    return "" if value is None or math.isnan(value) else measures[0].text([value], digits=2)
