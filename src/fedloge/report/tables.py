"""The table of a run's accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from fedloge.evaluation.shots import SHOTS
from fedloge.runs.measures import HEADLINES, KINDS, MEASURES, PM_STD, WORST_TENTH, Measure

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
"""What a method's ``privileged`` means."""

MASKED = {
    "train": "classes absent from a client's training data are masked",
    "test": "classes absent from a client's test data are masked",
}
"""What ``trainer.mask_absent`` means where it is on."""


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Generic and personal accuracy in percent, before and after realignment, from ``summary.json``."""
    table = Table(title=f"{summary['method']} on {summary['dataset']}, round {summary['rounds']} (%)")
    table.add_column("model", no_wrap=True)
    table.add_column("heads", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for model, heads, part in accuracy_rows(summary):
        table.add_row(model, heads, *(_cell(part, measures) for measures in COLUMNS.values()))
    rule, mask = summary["shots"]["rule"], summary["mask_absent"]
    own = " (personal: of the client's own test images)" if summary["shots"].get("personal") == "own" else ""
    note = f"last round; many/medium/few by {rule}{own}; personal: mean over clients, std and worst tenth"
    known = [PRIVILEGES[name] for name in summary.get("privileged", ())]
    known += [MASKED[mask]] if mask in MASKED else []
    table.caption = note + (f"; privileged knowledge: {', '.join(known)}" if known else "")
    return table


def accuracy_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float] | None]]:
    """Model, heads and numbers of each row; None where a method has no such model."""
    rows: list[tuple[str, str, Mapping[str, float] | None]] = []
    before = summary["before_realignment"]
    for view, model in KINDS.items():
        if before:
            rows.append((model, "trained", before[view]))
        rows.append((model, summary.get("finalized", "realigned") if before else "trained", summary[view]))
    return rows


def _cell(part: Mapping[str, float] | None, measures: Sequence[Measure]) -> str:
    if part is None:
        return "none"
    value = next((part[measure.name] for measure in measures if measure.name in part), None)
    return "" if value is None or math.isnan(value) else measures[0].text([value], digits=2)
