"""What comes out of a study: ``study.md`` and ``study.csv`` with ours beside the paper's, and ``study.png``."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torchmetrics.functional import spearman_corrcoef

from fedloge.analysis.analyze import RESULT, analyze_run
from fedloge.analysis.figures import FIGURES
from fedloge.analysis.frames import cosines
from fedloge.analysis.text import headline
from fedloge.errors import ConfigError, FedlogeError
from fedloge.etf import SSEC, sse_c
from fedloge.experiments.runner import Cell
from fedloge.experiments.study import Entry, Study
from fedloge.experiments.tables import COLUMNS, column_values, read_summary
from fedloge.plotting import heat_map, new_figure
from fedloge.report.tables import MASKED, PRIVILEGES
from fedloge.runs.folder import RunFolder
from fedloge.system.storage import clear_os_errors

SUMMARIES = {
    **COLUMNS,
    "macro F1": ("personal", "macro_f1"),
    "weighted F1": ("personal", "weighted_f1"),
}
"""Measures that ``summary.json`` has, and where; fractions, shown in percent."""

TRAINED = {"GM as trained": ("global", "acc"), "PM as trained": ("personal", "acc_mean")}
"""The same, before realignment or fine-tuning where there is one."""

GEOMETRY = {"norm": "norm_mean", "norm var": "norm_var", "angle": "angle_mean", "angle var": "angle_var"}
"""Measures of SSE-C, by their names in ``fedloge.etf.Geometry``."""

FIRST = "first round"
"""The first evaluated round whose generic model reaches the study's accuracy ``reach``."""

PRUNED = ("accuracy", "½ smallest pruned", "½ largest pruned")
DIAGNOSTICS = ("ρ(m, v)", "ρ(m, v/m²)", "ρ shuffled", "Σv/Σm²", *PRUNED, "NC1 test", "CDNV test")
"""Measures of ``fedloge analyze``, by their names in ``fedloge.analysis.text.headline``."""
MEASURES = (*SUMMARIES, *TRAINED, *GEOMETRY, FIRST, *DIAGNOSTICS)

PERCENT = (*SUMMARIES, *TRAINED, *PRUNED)


@dataclass(frozen=True)
class Value:
    """A cell of a study's table: a measure of a row in a setting, ours by seed and the paper's."""

    entry: Entry
    measure: str
    ours: Sequence[float]
    printed: float | None

    def text(self) -> str:
        """``43.5 ± 0.3 (43.50)``: ours, and in parentheses the paper's."""
        own = _shown(self.measure, self.ours) if self.ours else self._why()
        seeds = len(self.entry.cells)
        if 0 < len(self.ours) < seeds:
            own += f", {len(self.ours)} of {seeds} seeds"
        return own if self.printed is None else f"{own} ({_exact(self.measure, self.printed)})"

    @property
    def whole(self) -> bool:
        """Whether every seed has it."""
        return len(self.ours) == max(len(self.entry.cells), 1)

    def _why(self) -> str:
        failed = any(cell.error for cell in self.entry.cells)
        return "failed" if failed else ("–" if any(cell.done for cell in self.entry.cells) else "")


def check_measures(study: Study) -> None:
    """Ask, before anything is run, for columns that there are.

    Raises:
        ConfigError: If one is not known, or ``first round`` has no accuracy to reach.
    """
    known = [measure for measure in MEASURES if (measure in GEOMETRY) == bool(study.shape)]
    for measure in study.measures:
        if measure not in known:
            raise ConfigError("measures", measure, f"is not known of a {study.kind}", f"Known are {', '.join(known)}.")
    if FIRST in study.measures and study.reach is None:
        remedy = f"Give reach: {{{study.scale}: 0.5}}."
        raise ConfigError("reach", None, "is missing for the measure 'first round'", remedy)


def study_values(study: Study) -> list[Value]:
    """All of a study's numbers, row by row."""
    return [
        Value(entry, measure, _ours(study, entry, measure), entry.printed.get(measure))
        for entry in study.entries
        for measure in study.measures
    ]


def _ours(study: Study, entry: Entry, measure: str) -> list[float]:
    done = [cell for cell in entry.cells if cell.done]
    if measure == FIRST and study.reach is not None:
        return [number for cell in done if (number := _first_round(cell, study.reach)) is not None]
    if measure in GEOMETRY:
        return [getattr(solved(**study.shape, **entry.options).geometry, GEOMETRY[measure])]
    if measure in DIAGNOSTICS:
        return column_values([headline(entry.row, result) for result in analyses(entry)], [measure])
    summaries = [read_summary(cell) for cell in done]
    if measure in TRAINED:
        return column_values([summary["before_realignment"] or summary for summary in summaries], TRAINED[measure])
    return column_values(summaries, SUMMARIES[measure])


def analyses(entry: Entry) -> list[dict[str, Any]]:
    """``fedloge analyze`` of a row's runs, made where it is not there yet; a run that has none keeps the error."""
    found = []
    for cell in entry.cells:
        path = cell.folder / f"seed-{cell.seed}-analysis"  # RUN/analysis is the user's, of whatever state
        try:
            if cell.done:
                known = (path / RESULT).is_file()
                found.append(json.loads((path / RESULT).read_text("utf-8")) if known else analyze_run(cell.run, path))
        except FedlogeError as error:
            cell.error = str(error)
    return found


@cache
def solved(num_classes: int, dim: int, **options: Any) -> SSEC:
    """An SSE-C by itself."""
    return sse_c(num_classes, dim, **options, generator=torch.Generator().manual_seed(0))


def _first_round(cell: Cell, reach: float) -> int | None:
    for row in RunFolder(cell.run).rows("metrics.csv"):
        if row.get("global/acc") and float(row["global/acc"]) >= reach:
            return int(row["round"])
    return None


def write_study(study: Study, values: Sequence[Value]) -> Path:
    """Write ``study.csv``, ``study.md`` and, for a figure, ``study.png``; returns ``study.md``."""
    picture, text = _picture(study, values), study_markdown(study, values)
    with clear_os_errors(str(study.output_dir)):
        study.output_dir.mkdir(parents=True, exist_ok=True)
        _write_csv(study.output_dir / "study.csv", values)
        if picture is not None:
            (study.output_dir / "study.png").write_bytes(picture)
        path = study.output_dir / "study.md"
        path.write_text(text, encoding="utf-8")
    return path


def study_markdown(study: Study, values: Sequence[Value]) -> str:
    """Title, what this is and is not, the table, and notes."""
    table = _markdown(study_lines(study, values))
    notes = [f"- {note}" for note in study_notes(study, values)]
    steady = last10_markdown(study)
    return "\n".join([f"# {study.title}", "", banner(study), "", *table, "", *steady, *notes]) + "\n"


def last10_markdown(study: Study) -> list[str]:
    """GM and PM as trained, by the mean of the last ten rounds, for rows that are trainings of their own."""
    measures = [f"{measure} last 10" for measure in ("GM", "PM") if measure in study.measures]
    trained = [entry for entry in study.entries if entry.cells and not entry.cells[0].source]
    steady = replace(study, measures=measures, entries=[replace(entry, printed={}) for entry in trained])
    values = study_values(steady)
    if not any(value.ours for value in values):
        return []
    title = "Mean over the evaluations of the last 10 rounds, before any realignment or fine-tuning:"
    return [title, "", *_markdown(study_lines(steady, values)), ""]


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = lines
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest)]


def banner(study: Study) -> str:
    """What was run; at every scale but the full one, that it is not the paper's setting."""
    whose = (
        "The paper's setting, as far as it is stated"
        if study.scale == "full"
        else "**Not the paper's setting**, which is"
    )
    told = f"{whose}{': ' if study.scale == 'full' else ' '}{study.paper}. Scale `{study.scale}`: {study.about}."
    printed = any(entry.printed for entry in study.entries)
    return f"{told} In parentheses: what the paper prints." if printed else told


def study_lines(study: Study, values: Sequence[Value]) -> list[list[str]]:
    """The table as text, its head first: a line per row, and for each setting a column per measure."""
    settings = list(dict.fromkeys(value.entry.setting for value in values))
    columns = [(setting, measure) for setting in settings for measure in study.measures]
    by_place = {(value.entry.row, value.entry.setting, value.measure): value for value in values}
    head = [study.x, *(f"{setting}: {measure}" if setting else measure for setting, measure in columns)]
    lines = [
        [row, *(by_place[row, *column].text() for column in columns)]
        for row in dict.fromkeys(value.entry.row for value in values)
    ]
    return [head, *lines]


def study_table(study: Study, values: Sequence[Value]) -> Table:
    """The same for a terminal."""
    head, *lines = study_lines(study, values)
    table = Table(title=study.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    return table


def study_notes(study: Study, values: Sequence[Value]) -> list[str]:
    """What a reader must know beside the numbers."""
    cells = study.cells()
    done = [read_summary(cell) for cell in cells if cell.done]
    notes = []
    if done:
        rounds = " or ".join(str(number) for number in sorted({summary["rounds"] for summary in done}))
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(cell.seed for cell in cells))
        masks = {summary["mask_absent"] for summary in done}
        masked = " and ".join(MASKED.get(mask, "no class masked") for mask in sorted(masks))
        what = "Accuracies in percent" if any(measure in PERCENT for measure in study.measures) else "Measured"
        notes.append(
            f"{what} after the last of {rounds} rounds, the same for all rows; {masked}; mean ± standard deviation "
            f"over seeds {seeds}. –: the method has no such model, or the accuracy was not reached."
        )
        partitions = sorted({summary["partition_sha256"][:12] for summary in done})
        notes.append(f"Partition of the data: {', '.join(partitions)}.")
        notes.append(_provenance(cells))
        known = {summary["method"]: summary["privileged"] for summary in done if summary["privileged"]}
        notes += [f"Privileged knowledge: {name}: {PRIVILEGES[key]}." for name, keys in known.items() for key in keys]
    if study.reach is not None:
        notes.append(f"First round: the first evaluated one with a GM of at least {100 * study.reach:g} %.")
    notes += [f"Not at this scale: {', '.join(study.left_out)}."] if study.left_out else []
    notes += _agreement(values)
    notes += study.notes
    notes += [f"{cell.name}, seed {cell.seed}, failed: {cell.error} (see {cell.log})" for cell in cells if cell.error]
    return notes


def _provenance(cells: Sequence[Cell]) -> str:
    """What the runs were made with."""
    files = [cell.run / "environment.json" for cell in cells if cell.done]
    environments = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    parts = {"commit": "git_commit", "fedloge": "fedloge", "torch": "torch", "device": "device"}
    told = []
    for name, key in parts.items():
        values = dict.fromkeys(str(each.get(key)) for each in environments)
        told.append(f"{name} {', '.join(value[:12] if name == 'commit' else value for value in values)}")
    return f"{len(files)} runs: {'; '.join(told)}."


def _agreement(values: Sequence[Value]) -> list[str]:
    """How far ours and the paper's put the rows in the same order, by column."""
    parts = []
    for setting, measure in dict.fromkeys((value.entry.setting, value.measure) for value in values):
        if measure in GEOMETRY:
            continue  # all rows are the same but for rounding
        both = [
            (statistics.fmean(value.ours), value.printed)
            for value in values
            if (value.entry.setting, value.measure) == (setting, measure) and value.whole and value.printed is not None
        ]
        if len(both) > 3 and all(len(set(side)) > 1 for side in zip(*both, strict=True)):
            ours, printed = (torch.tensor(side, dtype=torch.float64) for side in zip(*both, strict=True))
            name = f"{setting}: {measure}" if setting else measure
            parts.append(f"{name} {float(spearman_corrcoef(ours, printed)):.2f} of {len(both)} rows")
    return [f"Order of the rows, ours against the paper's (Spearman): {'; '.join(parts)}."] if parts else []


def _picture(study: Study, values: Sequence[Value]) -> bytes | None:
    if study.kind == "curve":
        return _png(curve_figure(study, values))
    if study.kind == "cosines":
        return _png(cosine_maps(study))
    if study.kind not in FIGURES:
        return None
    shown = {entry.row: found[0] for entry in study.entries if (found := analyses(entry))}
    figure = FIGURES[study.kind](shown) if shown else None
    return None if figure is None else _png(figure)


def cosine_maps(study: Study) -> Any:
    """Cosines between the rows of each frame."""
    figure, axes = new_figure(1, len(study.entries), 4.2 * len(study.entries), 3.8)
    for ax, entry in zip(axes, study.entries, strict=True):
        image = heat_map(
            ax, cosines(solved(**study.shape, **entry.options).weight).numpy(), range(study.shape["num_classes"])
        )
        ax.set_title(entry.row, fontsize=10)
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def curve_figure(study: Study, values: Sequence[Value]) -> Any:
    """Ours over the number that the rows stand for, one panel per measure; the paper's, where printed, as crosses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(study.measures), 3.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for number, measure in enumerate(study.measures, 1):
        axes = figure.add_subplot(1, len(study.measures), number)
        own = [value for value in values if value.measure == measure]
        known = [value for value in own if value.ours]
        places = [float(value.entry.row) for value in known]
        means = [100 * statistics.fmean(value.ours) for value in known]
        spread = [100 * statistics.stdev(value.ours) if len(value.ours) > 1 else 0.0 for value in known]
        axes.errorbar(places, means, yerr=spread, marker="o", capsize=3, label=f"ours, {study.scale}")
        printed = [(float(value.entry.row), 100 * value.printed) for value in own if value.printed is not None]
        if printed:
            axes.plot(*zip(*printed, strict=True), "x", color="grey", label="paper")
        if all(place > 0 for place in places) and places and max(places) > 20 * min(places):
            axes.set_xscale("log")
        axes.set_xlabel(study.x)
        axes.set_title(f"{measure} (%)", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _write_csv(path: Path, values: Sequence[Value]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "setting", "measure", "seeds", "mean", "std", "paper", "failed", "runs"])
        for value in values:
            mean = f"{statistics.fmean(value.ours):.6g}" if value.ours else ""
            std = f"{statistics.stdev(value.ours):.6g}" if len(value.ours) > 1 else ""
            failed = "; ".join(f"seed {cell.seed}: {cell.error}" for cell in value.entry.cells if cell.error)
            runs = " ".join(str(cell.run) for cell in value.entry.cells)
            paper: Any = "" if value.printed is None else value.printed
            where = [value.entry.row, value.entry.setting, value.measure, len(value.ours)]
            writer.writerow([*where, mean, std, paper, failed, runs])


def _shown(measure: str, ours: Sequence[float]) -> str:
    mean = statistics.fmean(ours)
    if measure.endswith("var"):
        return f"{mean:.2e}"
    scale, digits = (100, 1) if measure in PERCENT else (1, 1 if measure == FIRST else 3)
    own = f"{scale * mean:.{digits}f}"
    return own if len(ours) == 1 else f"{own} ± {scale * statistics.stdev(ours):.{digits}f}"


def _exact(measure: str, printed: float) -> str:
    return f"{100 * printed:.2f}" if measure in PERCENT else f"{printed:g}"
