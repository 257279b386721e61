"""The report as one self-contained HTML file, which needs neither a server nor a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fedloge.methods.base import View
from fedloge.report import headline
from fedloge.report.figures import classes, clients, curves, heads
from fedloge.report.figures.panel import Panel
from fedloge.report.run_data import RunData
from fedloge.runs.tables import ModelView
from fedloge.tables import Table

NO_MODEL: Mapping[View, str] = {
    "global": "This method has no generic model.",
    "personal": "This method has no personal models.",
}

NOT_WRITTEN = "The run folder does not hold these numbers."
"""Text in place of a figure without data."""

WIDE = 25
"""Largest number of bars of figures that share a row."""


@dataclass(frozen=True)
class Cell:
    """A figure of a run, or the text ``absent`` in its place, and optionally a table beside it."""

    run: str
    panel: Panel | None
    absent: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A section of the page: rows of figures side by side."""

    key: str
    title: str
    intro: str
    rows: Sequence[Sequence[Cell]]


def render(runs: Sequence[RunData]) -> str:
    """The page of one run, or of several side by side."""
    found = sections(runs)
    panels = [cell.panel for section in found for row in section.rows for cell in row if cell.panel]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(_asset("page.html")).render(
        title=_title(runs),
        runs=runs,
        single=len(runs) == 1,
        facts=headline.facts,
        overview=headline.facts_table(runs),
        shots=headline.shot_words(runs),
        warnings=headline.warnings(runs),
        cards=headline.cards(runs[0]) if len(runs) == 1 else [],
        tables=headline.tables(runs),
        differences=headline.differences(runs),
        sections=found,
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        plotly=Markup(get_plotlyjs()),
        figures=Markup(_embed({panel.key: _figure(panel) for panel in panels})),
    )


def sections(runs: Sequence[RunData]) -> list[Section]:
    """All figures of the page, in order."""
    return [
        Section(
            "curves",
            "Learning curves",
            "Test accuracy by round. Nothing was selected by it: the headline numbers are those of the last round, not "
            "of the best one.",
            [_shared(curves.learning_curves(runs), "No learning curves: the run was realigned again, not trained.")],
        ),
        Section(
            "classes",
            "Classes",
            "Accuracy by class, the classes with the most training images first. "
            + _sentence(headline.shot_words(runs)),
            _arranged(runs, len(runs[0].class_names), *_by_view(runs, "classes", classes.class_accuracy)),
        ),
        Section(
            "clients",
            "Clients",
            "Accuracy and images of each client.",
            _client_rows(runs),
        ),
        Section(
            "confusion",
            "Confusion",
            "Under a long tail, rare classes tend to be mistaken for frequent ones.",
            _arranged(runs, 0, *_by_view(runs, "confusion", classes.confusion)),
        ),
        Section(
            "norms",
            "Classifiers",
            "Under a long tail the norms of a classifier's rows tend to follow the class counts; realignment corrects "
            "for this.",
            _arranged(
                runs,
                0,
                _each(runs, heads.shared_norms, "norms-shared", "No trained classifier is shared by all clients."),
                _each(runs, heads.client_norms, "norms-client", "Clients have no classifier of their own."),
            ),
        ),
        *_frames(runs),
        Section(
            "cost",
            "Training and cost",
            "Loss, time and traffic of every evaluated round.",
            [_shared(curves.cost_curves(runs), "No costs: the run was realigned again, not trained.")],
        ),
    ]


def _arranged(runs: Sequence[RunData], bars: int, *rows: Sequence[Cell]) -> list[Sequence[Cell]]:
    """Join the rows of a single run if its figures have at most :data:`WIDE` bars; keep those of several runs."""
    if len(runs) == 1 and bars <= WIDE:
        return [[cell for row in rows for cell in row]]
    return list(rows)


def _by_view(
    runs: Sequence[RunData], key: str, make: Callable[[RunData, View, str], Panel | None]
) -> Iterator[list[Cell]]:
    """A row for the generic and one for the personal models."""
    for view, absent in NO_MODEL.items():
        yield [
            Cell(
                run.name,
                make(run, view, f"{key}-{view}-{k}"),
                NOT_WRITTEN if ModelView(view) in run.class_accuracy else absent,
            )
            for k, run in enumerate(runs)
        ]


def _shared(panels: Sequence[Panel], absent: str) -> list[Cell]:
    """A row of figures that show all runs."""
    return [Cell("", panel) for panel in panels] or [Cell("", None, absent)]


def _each(runs: Sequence[RunData], make: Callable[[RunData, str], Panel | None], key: str, absent: str) -> list[Cell]:
    """A row with the same figure of every run."""
    return [Cell(run.name, make(run, f"{key}-{position}"), absent) for position, run in enumerate(runs)]


def _client_rows(runs: Sequence[RunData]) -> list[Sequence[Cell]]:
    accuracies = _each(runs, clients.client_accuracy, "clients", NO_MODEL["personal"])
    images = _partitions(runs, clients.client_images, "images")
    bars = max(len(run.partition.train) for run in runs)
    return [*_arranged(runs, bars, accuracies, images), _partitions(runs, clients.partition, "partition")]


def _partitions(runs: Sequence[RunData], make: Callable[[RunData, str], Panel], key: str) -> list[Cell]:
    """A figure of every partition with the names of its runs."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.partition.sha256, []).append(run)
    return [
        Cell(
            ", ".join(run.name for run in group) if len(groups) > 1 else "all runs" if len(runs) > 1 else "",
            make(group[0], f"{key}-{position}"),
        )
        for position, group in enumerate(groups.values())
    ]


def _frames(runs: Sequence[RunData]) -> list[Section]:
    cells = [
        Cell(
            run.name,
            heads.frame(run, name, f"frame-{position}-{name}"),
            table=Table("", ["geometry", "value", "ideal"], heads.frame_rows(run, name)),
        )
        for position, run in enumerate(runs)
        for name in run.frames
    ]
    intro = (
        "The server makes this classifier and no client trains it. In an equiangular frame all angles between classes "
        "are equal."
    )
    return [Section("frame", "Fixed classifier", intro, [cells])] if cells else []


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) == 1:
        return f"{runs[0].method} on {runs[0].summary['dataset']}"
    return f"{len(runs)} runs on {', '.join(sorted({str(run.summary['dataset']) for run in runs}))}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _figure(panel: Panel) -> dict[str, object]:
    options = panel.control.options if panel.control else ()
    changes = [{"data": option.data, "layout": option.layout} for option in options]
    return {"data": panel.data, "layout": panel.layout, "options": changes}


def _embed(content: object) -> str:
    """JSON that cannot end the script element that contains it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (resources.files("fedloge.report") / "assets" / name).read_text(encoding="utf-8")
