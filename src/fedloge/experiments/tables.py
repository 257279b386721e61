"""The tables of a comparison: ``comparison.csv``, ``comparison.md``, and one for the terminal."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fedloge.experiments.runner import Cell
from fedloge.report.tables import PRIVILEGES

Summary = Mapping[str, Any]

COLUMNS = {
    "GM": ("global", "acc"),
    "many": ("global", "acc_many"),
    "medium": ("global", "acc_medium"),
    "few": ("global", "acc_few"),
    "PM": ("personal", "acc_mean"),
    "worst tenth": ("personal", "acc_worst_decile"),
    "GM last 10": ("last10", "global", "mean"),
    "PM last 10": ("last10", "personal", "mean"),
    "GM best": ("best", "global", "value"),
    "PM best": ("best", "personal", "value"),
}
"""Accuracies of the tables, and where ``summary.json`` has them."""

TRAINED = [column for column, path in COLUMNS.items() if len(path) == 2]
"""Those that are known of the models before realignment or fine-tuning too."""
SELECTED = ("GM best", "PM best")
COSTS = ("s/round", "MB/round")


def comparison_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row per method, and one more for what it had before its realignment or fine-tuning.

    Every row has ``method``, ``seeds`` (how many are in), ``failed`` (messages by seed), and for each column a list of
    the seeds' values: accuracies between 0 and 1, seconds, megabytes; empty where the method has no such model.
    """
    rows = []
    for name in dict.fromkeys(cell.name for cell in cells):
        own = [cell for cell in cells if cell.name == name]
        summaries = [read_summary(cell) for cell in own if cell.done]
        head = {"seeds": len(summaries), "privileged": summaries[0]["privileged"] if summaries else []}
        failed = {cell.seed: cell.error for cell in own if cell.error}
        costs = [_costs(summary) for summary in summaries]
        values = {column: column_values(summaries, path) for column, path in COLUMNS.items()}
        values |= {column: [cost[column] for cost in costs] for column in COSTS}
        values |= {"masked": column_values(summaries, ("personal_masked", "acc_mean"))}
        rows.append({"method": name, **head, "failed": failed, **values})
        before = [summary["before_realignment"] for summary in summaries if summary["before_realignment"]]
        if before:
            name = f"{name}, not {summaries[0]['finalized']}"
            values = {column: column_values(before, COLUMNS[column]) if column in TRAINED else [] for column in values}
            rows.append({"method": name, **head, "failed": {}, **values})
    return rows


def write_comparison(folder: Path, cells: Sequence[Cell]) -> Path:
    """Write ``comparison.csv`` and ``comparison.md``; returns the latter."""
    rows = comparison_rows(cells)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        columns = (*COLUMNS, *COSTS, "masked")
        names = ["method", "seeds", "failed", "privileged"]
        writer = csv.writer(file)
        writer.writerow([*names, *(f"{column} {part}" for column in columns for part in ("mean", "std"))])
        for row in rows:
            failed = "; ".join(f"seed {seed}: {error}" for seed, error in row["failed"].items())
            cells_of = [f"{value:.6f}" for column in columns for value in _mean_std(row[column])]
            blank = [value.replace("nan", "") for value in cells_of]
            writer.writerow([row["method"], row["seeds"], failed, " ".join(row["privileged"]), *blank])
    path = folder / "comparison.md"
    path.write_text(comparison_markdown(cells), encoding="utf-8")
    return path


def comparison_markdown(cells: Sequence[Cell]) -> str:
    """The main table, the same with masked classes, and under which conditions they were made."""
    rows = comparison_rows(cells)
    summaries = [read_summary(cell) for cell in cells if cell.done]
    main = ["method", *(column for column in COLUMNS if column not in SELECTED), *COSTS]
    parts = [
        f"# {_title(summaries)}\n",
        "Accuracy in percent, mean ± standard deviation over seeds. Headline: last round, no class masked.\n",
        _markdown(main, (_line(row, main) for row in rows)),
        *(f"- {note}" for note in comparison_notes(cells)),
        "\n## With absent classes masked\n",
        "Personal models without the classes that a client has no training image of, for all methods: privileged "
        "knowledge that no number above uses.\n",
        _markdown(["method", "PM"], ([row["method"], percent(row["masked"])] for row in rows if row["masked"])),
        "\n## Best round\n",
        "Chosen on the test set, GM and PM apart: optimistic, only for comparison with papers that print it.\n",
        _markdown(
            ["method", *SELECTED],
            (_line(row, ["method", *SELECTED]) for row in rows if row["GM best"] + row["PM best"]),
        ),
    ]
    return "\n".join(parts) + "\n"


def comparison_notes(cells: Sequence[Cell]) -> list[str]:
    """What a reader must know beside the numbers."""
    done = [cell for cell in cells if cell.done]
    summaries = [read_summary(cell) for cell in done]
    notes = [
        "GM, many, medium, few: generic model on the balanced test set. PM: mean over clients of the personal model on "
        "the client's own test set; worst tenth: mean of the worst tenth of the clients. none: the method has no such "
        "model.",
        "Last 10: mean over the evaluations of the last 10 rounds.",
        "MB/round: what all clients of a round send and receive. s/round: wall time, evaluation included.",
    ]
    tuned = [s["method"] for s in summaries if s["before_realignment"] and s["finalized"] == "fine-tuned"]
    if tuned:
        names = ", ".join(dict.fromkeys(tuned))
        notes.append(
            f"{names} fine-tune after the last round alone: their PM last 10 is mostly of models that are not."
        )
    partitions = sorted({summary["partition_sha256"][:12] for summary in summaries})
    notes.append(f"Partition of the data: {', '.join(partitions)}{'' if len(partitions) < 2 else ' (THEY DIFFER)'}.")
    for seed in dict.fromkeys(cell.seed for cell in done):
        hashes: dict[str, list[str]] = {}
        for cell in done:
            if cell.seed == seed:
                environment = json.loads((cell.run / "environment.json").read_text(encoding="utf-8"))
                hashes.setdefault(environment["initial_backbone_sha256"][:12], []).append(cell.name)
        if len(hashes) == 1:
            notes.append(f"Seed {seed}: all methods start from the same backbone, {next(iter(hashes))}.")
        else:
            groups = "; ".join(f"{key}: {', '.join(names)}" for key, names in hashes.items())
            notes.append(f"Seed {seed}: the methods start from different backbones ({groups}).")
    known = {name: row["privileged"] for row in comparison_rows(cells) if row["privileged"] for name in [row["method"]]}
    notes += [f"Privileged knowledge: {name}: {PRIVILEGES[key]}." for name, keys in known.items() for key in keys]
    notes += [f"{cell.name}, seed {cell.seed}, failed: {cell.error}" for cell in cells if cell.error]
    return notes


def comparison_table(cells: Sequence[Cell], width: int = 120) -> Table:
    """The main table for a terminal of so many columns."""
    wide = ["many", "medium", "few"] if width >= 120 else []
    columns = ["method", "GM", *wide, "PM", "worst tenth", "s/round", *(["MB/round"] if wide else [])]
    summaries = [read_summary(cell) for cell in cells if cell.done]
    table = Table(
        title=_title(summaries), box=box.SIMPLE_HEAD, caption="last round, mean ± standard deviation over seeds (%)"
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in comparison_rows(cells):
        table.add_row(*_line(row, columns))
    return table


def read_summary(cell: Cell) -> dict[str, Any]:
    """``summary.json`` of a cell that is done."""
    summary: dict[str, Any] = json.loads((cell.run / "summary.json").read_text(encoding="utf-8"))
    return summary


def _title(summaries: Sequence[Summary]) -> str:
    if not summaries:
        return "no run is done"
    rounds = sorted({summary["rounds"] for summary in summaries})
    return f"{summaries[0]['dataset']}, {' or '.join(map(str, rounds))} rounds"


def column_values(summaries: Iterable[Summary], path: Sequence[str]) -> list[float]:
    """The entry of each summary that ``path`` leads to, where there is one."""
    found = []
    for summary in summaries:
        value: Any = summary
        for key in path:
            value = value.get(key) if value is not None else None
        if value is not None:
            found.append(value)
    return found


def _costs(summary: Summary) -> dict[str, float]:
    megabytes = (summary["bytes_up"] + summary["bytes_down"]) / 1e6
    return {"s/round": summary["seconds"] / summary["rounds"], "MB/round": megabytes / summary["rounds"]}


def _mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, nan where there are too few values."""
    mean = statistics.fmean(values) if values else float("nan")
    return mean, statistics.stdev(values) if len(values) > 1 else float("nan")


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation in percent, or ``none``."""
    return _pair([100 * value for value in values])


def _pair(values: Sequence[float]) -> str:
    if not values:
        return "none"
    mean, std = _mean_std(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {std:.1f}"


def _line(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    line = []
    for column in columns:
        if column == "method":
            line.append(row["method"] + (" ◆" if row["privileged"] else ""))
        elif row["failed"] and not row["seeds"]:
            line.append("failed")
        elif column in COSTS:
            line.append(f"{_mean_std(row[column])[0]:.2f}" if row[column] else "")
        else:
            has_model = row["PM" if column.startswith(("PM", "worst")) else "GM"]
            line.append(percent(row[column]) if row[column] or not has_model else "")
    return line


def _markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = f"| {' | '.join(columns)} |\n|{'|'.join('---' for _ in columns)}|\n"
    return head + "".join(f"| {' | '.join(line)} |\n" for line in lines)
