"""Results of a study: ``study.md`` and ``study.csv`` with our values beside the paper's, and ``study.png``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from torchmetrics.functional import spearman_corrcoef

from fedloge.analysis.analyze import RESULT, analyze_run
from fedloge.analysis.figures import FIGURES
from fedloge.analysis.frames import cosines
from fedloge.analysis.text import headline
from fedloge.errors import ConfigError, FedlogeError
from fedloge.etf import SSEC, sse_c
from fedloge.experiments import tables
from fedloge.experiments.figures import cosine_figure, curve_figure
from fedloge.experiments.live import counted
from fedloge.experiments.runner import Cell
from fedloge.experiments.study import Study
from fedloge.experiments.tables import Row
from fedloge.markup import markdown_text, rich_text
from fedloge.plotting import png
from fedloge.report.tables import MASKED
from fedloge.runs.folder import RunFolder
from fedloge.runs.measures import HEADLINES, MEASURES, Measure, mean_std, read_all
from fedloge.tables import Table


class Variance(Measure):
    """A measure that is tiny and the same for all seeds."""

    def text(self, values: Sequence[float], digits: int | None = None) -> str:
        """The mean."""
        return f"{mean_std(values)[0]:.2e}"


def _own(key: str, digits: int = 3, scale: float = 1.0, kind: type[Measure] = Measure) -> Measure:
    return kind(key=key, path="", label=key, title=key, explanation="", digits=digits, scale=scale)


FIRST = "first round"
"""The first evaluated round whose generic model reaches the study's accuracy ``reach``."""

PRUNED = ("accuracy", "½ smallest pruned", "½ largest pruned")
DIAGNOSTICS = ("ρ(m, v)", "ρ(m, v/m²)", "ρ shuffled", "Σv/Σm²", *PRUNED, "NC1 test", "CDNV test")
"""Measures of ``fedloge analyze``, by their names in ``fedloge.analysis.text.headline``."""

GEOMETRY = {"norm": "norm_mean", "norm var": "norm_var", "angle": "angle_mean", "angle var": "angle_var"}
"""Measures of SSE-C, by their names in ``fedloge.etf.Geometry``."""

Reader = Callable[["Study", Row], list[float]]
"""Values of a measure of a row, one per run that has it."""


def of_summaries(measure: Measure) -> Reader:
    """Values in the summaries."""
    return lambda study, row: read_all(row.summaries, measure)


def as_trained(measure: Measure) -> Reader:
    """Values before realignment or fine-tuning; for methods without either, the final ones."""
    return lambda study, row: read_all([each["before_realignment"] or each for each in row.summaries], measure)


def of_analyses(key: str) -> Reader:
    """Values of the diagnostics."""
    return lambda study, row: [v for each in analyses(row) if (v := headline(row.name, each)[key]) is not None]


def of_frame(name: str) -> Reader:
    """The value of SSE-C."""
    return lambda study, row: [getattr(solved(**study.shape, **row.options).geometry, name)]


def first_rounds(study: Study, row: Row) -> list[float]:
    """The first evaluated round of each run with the accuracy that the study asks for."""
    runs = [RunFolder(cell.run).rows("metrics.csv") for cell in row.done]
    reached = [[r["round"] for r in rows if float(r.get("global/acc") or "nan") >= (study.reach or 0)] for rows in runs]
    return [int(rounds[0]) for rounds in reached if rounds]


KNOWN: Mapping[str, tuple[Measure, Reader]] = {
    **{key: (measure, of_summaries(measure)) for key, measure in MEASURES.items()},
    **{f"{m.key} as trained": (replace(m, key=f"{m.key} as trained"), as_trained(m)) for m in HEADLINES},
    **{
        key: (_own(key, kind=Variance if key.endswith("var") else Measure), of_frame(GEOMETRY[key])) for key in GEOMETRY
    },
    FIRST: (_own(FIRST, digits=1), first_rounds),
    **{key: (_own(key, 1, 100.0) if key in PRUNED else _own(key), of_analyses(key)) for key in DIAGNOSTICS},
}
"""Measures of a study by key, and what reads them."""


def check_measures(study: Study) -> None:
    """Check the measures before anything is run.

    Raises:
        ConfigError: If one is unknown, or ``first round`` has no accuracy to reach.
    """
    known = [key for key in KNOWN if (key in GEOMETRY) == bool(study.shape)]
    for measure in study.measures:
        if measure not in known:
            remedy = f"Known are {', '.join(known)}."
            raise ConfigError("measures", measure, f"is not a measure of a {study.kind}", remedy)
    if FIRST in study.measures and study.reach is None:
        remedy = f"Add reach: {{{study.scale}: 0.5}}."
        raise ConfigError("reach", None, "is missing for the measure 'first round'", remedy)


def report_study(study: Study, console: Console) -> None:
    """Measure what was run, write the results and print the table."""
    slow = study.shape or any(key in DIAGNOSTICS for key in study.measures)
    rows = study_rows(study, counted(study.rows, "rows measured", console) if slow else study.rows)
    write_study(study, rows)
    console.print(rich_text(banner(study).replace("**", "")), study_table(study, rows), sep="\n\n")


def study_rows(study: Study, rows: Iterable[Row] | None = None) -> list[Row]:
    """Rows, all of the study by default, with the values of its measures."""
    return [_measured(study, row) for row in (study.rows if rows is None else rows)]


def _measured(study: Study, row: Row) -> Row:
    if any(key in DIAGNOSTICS for key in study.measures):
        analyses(row)  # a run that cannot be analysed has failed, and shows no number
    return replace(row, values={key: KNOWN[key][1](study, row) for key in study.measures})


def analyses(row: Row) -> list[dict[str, Any]]:
    """Results of ``fedloge analyze`` for a row's runs, computed once; a failure becomes the run's error."""
    found = []
    for cell in row.done:
        path = cell.folder / f"seed-{cell.seed}-analysis"  # RUN/analysis is the user's, of whatever state
        try:
            found.append(json.loads((path / RESULT).read_text("utf-8")))
        except (OSError, ValueError):  # there is none yet, or it was interrupted while it was written
            try:
                found.append(analyze_run(cell.run, path))
            except FedlogeError as error:
                cell.error = str(error)
    return found


@cache
def solved(num_classes: int, dim: int, **options: Any) -> SSEC:
    """SSE-C with options of :func:`fedloge.etf.sse_c`."""
    return sse_c(num_classes, dim, **options, generator=torch.Generator().manual_seed(0))


def write_study(study: Study, rows: Sequence[Row]) -> Path:
    """Write ``study.csv``, ``study.md`` and, for a figure, ``study.png``; returns ``study.md``."""
    head = ["row", "setting", "measure", "seeds", "mean", "std", "paper", "failed", "runs"]
    picture, text = _picture(study, rows), study_markdown(study, rows)
    values = Table("", head, [_csv_line(row, measure) for row in rows for measure in study.measures])
    return tables.write(study.output_dir, "study", values, text, picture)


def _csv_line(row: Row, measure: str) -> list[Any]:
    ours = row.values[measure]
    numbers = ["" if math.isnan(number) else f"{number:.6g}" for number in mean_std(ours)]
    runs = " ".join(str(cell.run) for cell in row.cells)
    return [row.name, row.setting, measure, len(ours), *numbers, row.printed.get(measure, ""), row.failed, runs]


def study_markdown(study: Study, rows: Sequence[Row]) -> str:
    """Title, what was run, the tables, and notes."""
    notes = [f"- {markdown_text(note)}" for note in study_notes(study, rows)]
    head = [
        f"# {markdown_text(study.title)}\n",
        f"{banner(study, markdown_text)}\n",
        _table(study, rows).markdown() + "\n",
    ]
    return "\n".join([*head, *last10_markdown(study), *notes]) + "\n"


def last10_markdown(study: Study) -> list[str]:
    """GM and PM as the mean over the last ten rounds, for rows with trainings of their own."""
    measures = [f"{measure} last 10" for measure in ("GM", "PM") if measure in study.measures]
    trained = [replace(row, printed={}) for row in study.rows if row.cells and not row.cells[0].source]
    steady = replace(study, measures=measures, rows=trained)
    rows = study_rows(steady)
    if not any(row.values[measure] for row in rows for measure in measures):
        return []
    title = "Mean over the evaluations of the last 10 rounds, before any realignment or fine-tuning:\n"
    return [title, _table(steady, rows).markdown() + "\n"]


def banner(study: Study, as_given: Callable[[str], str] = str) -> str:
    """What was run, and whether it is the paper's setting; the file's own words pass through ``as_given``."""
    full = study.scale == "full"
    whose = "The paper's setting, as far as it is stated:" if full else "**Not the paper's setting**, which is"
    text = f"{whose} {as_given(study.paper)}. Scale `{study.scale}`: {as_given(study.about)}."
    printed = any(row.printed for row in study.rows)
    return f"{text} In parentheses: what the paper prints." if printed else text


def study_table(study: Study, rows: Sequence[Row]) -> RichTable:
    """The table for a terminal."""
    shown = replace(_table(study, rows), title=study.title)
    return shown.rich(wrap=True, box=box.SIMPLE_HEAD, title_justify="left")


def _table(study: Study, rows: Sequence[Row]) -> Table:
    return tables.table(rows, [KNOWN[key][0] for key in study.measures], [study.x], lambda row: [row.name])


def study_notes(study: Study, rows: Sequence[Row]) -> list[str]:
    """Conditions of the runs and remarks on the values."""
    notes = _conditions(study, study.done()) if study.done() else []
    if study.reach is not None:
        notes.append(f"First round: the first evaluated one with a GM of at least {100 * study.reach:g} %.")
    notes += [f"Not at this scale: {', '.join(study.left_out)}."] if study.left_out else []
    notes += _agreement(study, rows)
    return [*notes, *study.notes, *tables.coverages(study.done()), *tables.failures(study.cells())]


def _conditions(study: Study, done: Sequence[Cell]) -> list[str]:
    """Rounds, seeds, masks, partitions, versions and privileged knowledge of the finished runs."""
    summaries = [cell.read("summary.json") for cell in done]
    rounds = " or ".join(map(str, sorted({summary["rounds"] for summary in summaries})))
    seeds = ", ".join(map(str, dict.fromkeys(cell.seed for cell in study.cells())))
    masks = sorted({summary["mask_absent"] for summary in summaries})
    masked = " and ".join(MASKED.get(mask, "no class masked") for mask in masks)
    what = "Accuracies in percent" if any(tables.is_share(KNOWN[key][0]) for key in study.measures) else "Measured"
    environments = [cell.read("environment.json") for cell in done]
    versions = []
    for name, key in {"commit": "git_commit", "fedloge": "fedloge", "torch": "torch", "device": "device"}.items():
        values = dict.fromkeys(str(each.get(key))[: 12 if name == "commit" else None] for each in environments)
        versions.append(f"{name} {', '.join(values)}")
    return [
        f"{what} after the last of {rounds} rounds, the same for all rows; {masked}; mean ± standard deviation "
        f"over seeds {seeds}. none: the method has no such model, or the accuracy was not reached.",
        f"Partition of the data: {tables.partitions(summaries)}.",
        f"{len(done)} runs: {'; '.join(versions)}.",
        *tables.privileges({summary["method"]: summary["privileged"] for summary in summaries}),
    ]


def _agreement(study: Study, rows: Sequence[Row]) -> list[str]:
    """Rank correlation of our values and the paper's over the rows, by column."""
    parts = []
    for setting in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == setting]
        for measure in study.measures:
            both = [(r.mean(measure), r.printed[measure]) for r in own if _comparable(r, measure)]
            if len(both) > 3 and all(len(set(side)) > 1 for side in zip(*both, strict=True)):
                ours, printed = (torch.tensor(side, dtype=torch.float64) for side in zip(*both, strict=True))
                correlation = float(spearman_corrcoef(ours, printed))
                parts.append(f"{tables.column_name(setting, measure)} {correlation:.2f} of {len(both)} rows")
    return [f"Order of the rows, ours against the paper's (Spearman): {'; '.join(parts)}."] if parts else []


def _comparable(row: Row, measure: str) -> bool:
    """Whether the paper prints a value and every seed has one; frames differ only by rounding."""
    complete = len(row.values[measure]) == len(row.cells)
    return complete and measure in row.printed and measure not in GEOMETRY


def _picture(study: Study, rows: Sequence[Row]) -> bytes | None:
    """The figure of a study as PNG; None for a table."""
    figure: Any
    if study.kind == "curve":
        figure = curve_figure(study, rows)
    elif study.kind == "cosines":
        weights = {row.name: solved(**study.shape, **row.options).weight for row in study.rows}
        figure = cosine_figure({name: cosines(weight) for name, weight in weights.items()})
    else:
        shown = {row.name: found[0] for row in study.rows if study.kind in FIGURES and (found := analyses(row))}
        figure = FIGURES[study.kind](shown) if shown else None
    return png(figure) if figure is not None else None
