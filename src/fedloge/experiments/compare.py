"""``fedloge compare``: methods x seeds on one dataset under the same conditions, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from fedloge.experiments import tables
from fedloge.experiments.plan import SECTIONS, Plan, named, read_seeds, seeded, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import override_value, read_mapping
from fedloge.runs.measures import (
    BEST,
    COSTS,
    GENERIC,
    LAST10,
    MASKED,
    PM,
    WORST_TENTH,
    Measure,
    chosen_on,
    higher_is_better,
)
from fedloge.tables import Table

KEYS: Mapping[str, type] = {
    **{"output_dir": str, "seeds": object, "jobs": int, "metric": str, "methods": dict},
    **SECTIONS,
}

MAIN = (*GENERIC, PM, WORST_TENTH, *LAST10, *COSTS)
COLUMNS = (*GENERIC, PM, WORST_TENTH, *LAST10, *BEST, *COSTS, MASKED)
"""Measures of the main table, and of ``comparison.csv``."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Plan):
    """A comparison: a row per method.

    Args:
        metric: Column of ``metrics.csv`` by which the best method is named; None names none.
    """

    metric: str | None = None


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison's YAML file: the sections of a run, and methods with their options by name.

    Args:
        path: The file.
        overrides: Options of all runs, such as ``--trainer.rounds=2``, and keys of the file, such as ``--seeds=0,1``.

    Raises:
        FedlogeError: If the file or an override is malformed.
    """
    content = read_mapping(path, "--config")
    for override in overrides:
        override_value(content, override)
    content = typed(content, KEYS, str(path))
    seeds = read_seeds(content.get("seeds", 0))
    base = {key: content[key] for key in SECTIONS if key in content}
    output_dir = Path(content.get("output_dir", f"runs/{Path(path).stem}"))
    rows = []
    for name, arguments in named(content, "methods", {}, str(path)).items():
        options = with_method(base, name, arguments)
        cells = [Cell(name, seed, seeded(options, seed), output_dir / slug(name)) for seed in seeds]
        rows.append(Row(name, cells))
    return Comparison(rows=rows, output_dir=output_dir, jobs=content.get("jobs"), metric=content.get("metric"))


def with_method(base: Mapping[str, Any], name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method's runs; its class is ``name`` unless the arguments have a ``class_path``."""
    model = base.get("model", {})
    own = {key: value for key, value in arguments.items() if key != "class_path"}
    class_path = arguments.get("class_path", name)
    return {**base, "model": {**model, "class_path": class_path, "init_args": {**model.get("init_args", {}), **own}}}


def comparison_rows(plan: Plan) -> list[Row]:
    """Rows with the values of each method, followed by those before its realignment or fine-tuning if it has one."""
    rows = []
    for row in plan.rows:
        summaries = row.summaries
        rows.append(row.measured(summaries, COLUMNS))
        before = [summary["before_realignment"] for summary in summaries if summary["before_realignment"]]
        if before:
            trained = replace(row, name=f"{row.name}, not {summaries[0]['finalized']}", cells=row.done)
            rows.append(trained.measured(before, (*GENERIC, PM, WORST_TENTH)))
    return rows


def write_comparison(plan: Plan) -> None:
    """Write ``comparison.csv`` and ``comparison.md``."""
    rows = comparison_rows(plan)
    head = ["method", "seeds", "failed", "privileged", *tables.csv_head(COLUMNS)]
    lines = [
        [row.name, len(row.done), row.failed, " ".join(_privileged(row)), *tables.csv_values(row, COLUMNS)]
        for row in rows
    ]
    tables.write(plan.output_dir, "comparison", Table("", head, lines), comparison_markdown(plan, rows))


def comparison_markdown(plan: Plan, rows: Sequence[Row]) -> str:
    """The main table, the same with masked classes, the best rounds, and the conditions of the runs."""
    masked = [[row.name, row.text(MASKED)] for row in rows if row.values.get(MASKED.key)]
    best = [row for row in rows if any(row.values.get(measure.key) for measure in BEST)]
    parts = [
        f"# {_title(plan)}\n",
        "Accuracy in percent, mean ± standard deviation over seeds. Headline: last round, no class masked.\n",
        _table(rows, MAIN).markdown() + "\n",
        *(f"- {note}" for note in comparison_notes(plan)),
        "\n## With absent classes masked\n",
        "Personal models without the classes that a client has no training image of, for all methods: privileged "
        "knowledge that no number above uses.\n",
        Table("", ["method", PM.key], masked).markdown() + "\n",
        "\n## Best round\n",
        "Chosen on the test set, separately for GM and PM: optimistic, only for comparison with papers that print "
        "it.\n",
        _table(best, BEST).markdown() + "\n",
    ]
    return "\n".join(parts) + "\n"


def comparison_notes(plan: Plan) -> list[str]:
    """Definitions of the columns and conditions of the runs."""
    done = plan.done()
    summaries = [cell.read("summary.json") for cell in done]
    notes = [f"{measure.key}: {measure.explanation}" for measure in MAIN]
    notes.append("none: The method has no such model.")
    tuned = [s["method"] for s in summaries if s["before_realignment"] and s["finalized"] == "fine-tuned"]
    if tuned:
        names = ", ".join(dict.fromkeys(tuned))
        notes.append(f"{names}: fine-tuned after the last round only, so PM last 10 is mostly of untuned models.")
    found = tables.partitions(summaries)
    notes.append(f"Partition of the data: {found}{' (THEY DIFFER)' if ',' in found else ''}.")
    notes += [_initial([cell for cell in done if cell.seed == seed]) for seed in dict.fromkeys(c.seed for c in done)]
    notes += tables.privileges(
        {cell.name: summary["privileged"] for cell, summary in zip(done, summaries, strict=True)}
    )
    choice = best_note(plan) if isinstance(plan, Comparison) and plan.metric else None
    return [*([choice] if choice else []), *notes, *tables.failures(plan.cells())]


def best_note(plan: Comparison) -> str:
    """The method with the best mean of the comparison's metric, and on what images it was chosen."""
    metric = str(plan.metric)
    values = {row.name: found for row in plan.rows if (found := tables.last_values(row, metric))}
    if not values:
        return f"No run has {metric}."
    means = {name: statistics.fmean(found) for name, found in values.items()}
    best = (max if higher_is_better(metric) else min)(means, key=means.__getitem__)
    return f"Best {metric}: {means[best]:.4g} with {best}, {chosen_on(metric)}."


def _initial(cells: Sequence[Cell]) -> str:
    """Whether the runs of a seed started from the same backbone."""
    by_hash: dict[str, list[str]] = {}
    for cell in cells:
        by_hash.setdefault(cell.read("environment.json")["initial_backbone_sha256"][:12], []).append(cell.name)
    if len(by_hash) == 1:
        return f"Seed {cells[0].seed}: all methods start from the same backbone, {next(iter(by_hash))}."
    groups = "; ".join(f"{key}: {', '.join(names)}" for key, names in by_hash.items())
    return f"Seed {cells[0].seed}: the methods start from different backbones ({groups})."


def comparison_table(plan: Plan, width: int = 120) -> RichTable:
    """The main table for a terminal of that many columns."""
    narrow = (GENERIC[0], PM, WORST_TENTH, COSTS[0])
    shown = _table(comparison_rows(plan), (*GENERIC, PM, WORST_TENTH, *COSTS) if width >= 120 else narrow)
    caption = "last round, mean ± standard deviation over seeds (%)"
    return replace(shown, title=_title(plan)).rich(caption, box=box.SIMPLE_HEAD)


def _table(rows: Sequence[Row], measures: Sequence[Measure]) -> Table:
    return tables.table(rows, measures, ["method"], lambda row: [row.name + (" ◆" if _privileged(row) else "")])


def _title(plan: Plan) -> str:
    summaries = [cell.read("summary.json") for cell in plan.done()]
    if not summaries:
        return "no run is done"
    rounds = sorted({summary["rounds"] for summary in summaries})
    return f"{summaries[0]['dataset']}, {' or '.join(map(str, rounds))} rounds"


def _privileged(row: Row) -> list[str]:
    return row.summaries[0]["privileged"] if row.done else []
