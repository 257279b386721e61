"""Results of a comparison: ``comparison.csv``, ``comparison.md``, and a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from fedloge.experiments.plan import Plan
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import (
    COLUMNS,
    Result,
    Summary,
    column_values,
    failures,
    markdown,
    mean_std,
    partitions,
    privileges,
    read_summary,
    rich_table,
    spread,
    write_csv,
)

SELECTED = ("GM best", "PM best")
COSTS = ("s/round", "MB/round")
MASKED = "masked"


def comparison_results(plan: Plan) -> list[Result]:
    """Results of each method, followed by those before its realignment or fine-tuning if it has one.

    Values are accuracies between 0 and 1, seconds and megabytes.
    """
    results = []
    for row in plan.rows:
        summaries = [read_summary(cell) for cell in row.done]
        results.append(Result(row, _values(summaries)))
        before = [summary["before_realignment"] for summary in summaries if summary["before_realignment"]]
        if before:
            trained = replace(row, name=f"{row.name}, not {summaries[0]['finalized']}", cells=row.done)
            results.append(Result(trained, _values(before)))
    return results


def _values(summaries: Sequence[Summary]) -> dict[str, list[float]]:
    complete = [summary for summary in summaries if "rounds" in summary]
    bytes_per_round = [(summary["bytes_up"] + summary["bytes_down"]) / summary["rounds"] for summary in complete]
    return {
        **{column: column_values(summaries, path) for column, path in COLUMNS.items()},
        "s/round": [summary["seconds"] / summary["rounds"] for summary in complete],
        "MB/round": [number / 1e6 for number in bytes_per_round],
        MASKED: column_values(summaries, ("personal_masked", "acc_mean")),
    }


def write_comparison(plan: Plan) -> Path:
    """Write ``comparison.csv`` and ``comparison.md``; returns the latter."""
    results = comparison_results(plan)
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    columns = (*COLUMNS, *COSTS, MASKED)
    head = ["method", "seeds", "failed", "privileged"]
    write_csv(
        plan.output_dir / "comparison.csv",
        [*head, *(f"{column} {part}" for column in columns for part in ("mean", "std"))],
        (
            [
                *(result.row.name, len(result.row.done), result.row.failed, " ".join(_privileged(result))),
                *(text for column in columns for text in mean_std(result.values[column])),
            ]
            for result in results
        ),
    )
    path = plan.output_dir / "comparison.md"
    path.write_text(comparison_markdown(plan, results), encoding="utf-8")
    return path


def comparison_markdown(plan: Plan, results: Sequence[Result]) -> str:
    """The main table, the same with masked classes, the best rounds, and the conditions of the runs."""
    main = ["method", *(column for column in COLUMNS if column not in SELECTED), *COSTS]
    masked = ([result.row.name, spread(result.values[MASKED])] for result in results if result.values[MASKED])
    best = [result for result in results if any(result.values[column] for column in SELECTED)]
    parts = [
        f"# {_title(plan)}\n",
        "Accuracy in percent, mean ± standard deviation over seeds. Headline: last round, no class masked.\n",
        markdown(main, (_line(result, main) for result in results)),
        *(f"- {note}" for note in comparison_notes(plan)),
        "\n## With absent classes masked\n",
        "Personal models without the classes that a client has no training image of, for all methods: privileged "
        "knowledge that no number above uses.\n",
        markdown(["method", "PM"], masked),
        "\n## Best round\n",
        "Chosen on the test set, separately for GM and PM: optimistic, only for comparison with papers that print "
        "it.\n",
        markdown(["method", *SELECTED], (_line(result, ["method", *SELECTED]) for result in best)),
    ]
    return "\n".join(parts) + "\n"


def comparison_notes(plan: Plan) -> list[str]:
    """Definitions of the columns and conditions of the runs."""
    done = [cell for cell in plan.cells() if cell.done]
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
        notes.append(f"{names}: fine-tuned after the last round only, so PM last 10 is mostly of untuned models.")
    found = partitions(summaries)
    notes.append(f"Partition of the data: {found}{' (THEY DIFFER)' if ',' in found else ''}.")
    notes += [_initial([cell for cell in done if cell.seed == seed]) for seed in dict.fromkeys(c.seed for c in done)]
    notes += privileges({cell.name: summary["privileged"] for cell, summary in zip(done, summaries, strict=True)})
    return [*notes, *failures(plan.cells())]


def _initial(cells: Sequence[Cell]) -> str:
    """Whether the runs of a seed started from the same backbone."""
    by_hash: dict[str, list[str]] = {}
    for cell in cells:
        environment = json.loads((cell.run / "environment.json").read_text(encoding="utf-8"))
        by_hash.setdefault(environment["initial_backbone_sha256"][:12], []).append(cell.name)
    if len(by_hash) == 1:
        return f"Seed {cells[0].seed}: all methods start from the same backbone, {next(iter(by_hash))}."
    groups = "; ".join(f"{key}: {', '.join(names)}" for key, names in by_hash.items())
    return f"Seed {cells[0].seed}: the methods start from different backbones ({groups})."


def comparison_table(plan: Plan, width: int = 120) -> Table:
    """The main table for a terminal of that many columns."""
    wide = ["many", "medium", "few"] if width >= 120 else []
    columns = ["method", "GM", *wide, "PM", "worst tenth", "s/round", *(["MB/round"] if wide else [])]
    caption = "last round, mean ± standard deviation over seeds (%)"
    lines = (_line(result, columns) for result in comparison_results(plan))
    return rich_table(columns, lines, title=_title(plan), caption=caption)


def _title(plan: Plan) -> str:
    summaries = [read_summary(cell) for cell in plan.cells() if cell.done]
    if not summaries:
        return "no run is done"
    rounds = sorted({summary["rounds"] for summary in summaries})
    return f"{summaries[0]['dataset']}, {' or '.join(map(str, rounds))} rounds"


def _privileged(result: Result) -> list[str]:
    known: list[str] = read_summary(result.row.done[0])["privileged"] if result.row.done else []
    return known


def _line(result: Result, columns: Sequence[str]) -> list[str]:
    return [_text(result, column) for column in columns]


def _text(result: Result, column: str) -> str:
    if column == "method":
        return result.row.name + (" ◆" if _privileged(result) else "")
    if result.row.failed and not result.row.done:
        return "failed"
    values = result.values[column]
    if column in COSTS:
        return f"{result.mean(column):.2f}" if values else ""
    has_model = result.values["PM" if column.startswith(("PM", "worst")) else "GM"]
    return spread(values) if values or has_model else "none"
