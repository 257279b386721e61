"""Headline numbers of runs with their meaning, and comparisons between runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloge.evaluation.shots import SHOTS
from fedloge.methods.base import View
from fedloge.plotting import percent
from fedloge.report.figures.clients import worst_words
from fedloge.report.run_data import RunData
from fedloge.report.tables import MASKED, PRIVILEGES, selection_words
from fedloge.runs.coverage import client_notes, clients_words, mean_words
from fedloge.runs.measures import (
    GENERIC,
    GENERIC_SCORES,
    GM,
    INTERVALS,
    KINDS,
    MEASURES,
    PERSONAL,
    PERSONAL_SCORES,
    PM,
    SPREADS,
    WORST_TENTH,
    Measure,
    chosen_on,
    read_all,
)
from fedloge.runs.tables import ModelView
from fedloge.tables import Table

OVER_SEEDS = {"GM": GM, "GM few": MEASURES["few"], "PM": PM, "PM worst tenth": WORST_TENTH}
"""Columns of the table over seeds."""

NOT_SETTINGS = ("trainer.seed", "trainer.run_dir", "trainer.overwrite", "trainer.threads", "seed_everything", "report")
"""Options in which runs of the same setting may differ."""


@dataclass(frozen=True)
class Card:
    """A headline number.

    Args:
        title: Name of the number.
        value: The number with its unit.
        meaning: Explanation that completes a sentence after the number.
        details: Lines with related numbers.
    """

    title: str
    value: str
    meaning: str
    details: Sequence[str] = ()


def cards(run: RunData) -> list[Card]:
    """The headline numbers of one run."""
    found = [_generic_card(run), _few_card(run), _personal_card(run), _worst_card(run), _cost_card(run)]
    return [card for card in found if card is not None]


def tables(runs: Sequence[RunData]) -> list[Table]:
    """Accuracies of the generic and of the personal models, before and after the last step, and over seeds."""
    found = [
        _accuracies("Generic model on the global test set", runs, "global", GENERIC),
        _accuracies("Personal models on their clients' own test sets", runs, "personal", PERSONAL),
        _further(runs),
        _over_seeds(runs),
    ]
    return [table for table in found if table is not None]


def facts_table(runs: Sequence[RunData]) -> Table:
    """:func:`facts` of several runs."""
    columns = [name for name, _ in facts(runs[0])]
    return Table("", columns, [[value for _, value in facts(run)] for run in runs], names=len(columns))


def facts(run: RunData) -> list[tuple[str, str]]:
    """Facts about a run, each with its name."""
    partition = run.partition
    return [
        ("run", run.name),
        ("method", run.method),
        ("data", f"{run.summary['dataset']}, {len(run.class_names)} classes, {int(run.class_counts.sum()):,} images"),
        ("long tail", partition.imbalance),
        ("clients", f"{len(partition.train)}, {partition.scheme}" + _alpha(run)),
        ("rounds", "; ".join(filter(None, [str(run.summary["rounds"]), selection_words(run.summary)]))),
        ("seed", str(run.summary["seed"])),
        ("partition", partition.sha256[:12]),
    ]


def warnings(runs: Sequence[RunData]) -> list[str]:
    """Warnings about privileged knowledge and about runs that are not comparable."""
    found = [
        f"{run.name}: privileged knowledge, {PRIVILEGES.get(name, name)}."
        for run in runs
        for name in run.summary.get("privileged", ())
    ]
    found += [f"{run.name}: {note}" for run in runs for note in client_notes(run.coverage)]
    for run in runs:
        if run.summary["mask_absent"] in MASKED:
            masked = MASKED[run.summary["mask_absent"]]
            found.append(f"{run.name}: privileged knowledge, in personal models {masked}; other methods do not use it.")
        if run.record and any(run.record.left_out.values()):
            left_out = sum(run.record.left_out.values())
            found.append(f"{run.name}: {left_out} image(s) could not be read and were left out.")
    if len({run.partition.sha256 for run in runs}) > 1:
        found.append("The runs were not made on the same partition: clients and test sets differ between them.")
    records = [run.record for run in runs if run.record]
    if any(not records[0].same_images(other) for other in records[1:]):
        found.append("The runs were made on different data: their classes or their images differ.")
    if len({run.summary["shots"]["rule"] for run in runs}) > 1:
        found.append("The runs group classes into many, medium and few by different rules.")
    rounds = sorted({int(run.summary["rounds"]) for run in runs})
    if len(rounds) > 1:
        found.append(f"The runs have different numbers of rounds: {', '.join(map(str, rounds))}.")
    return found


def differences(runs: Sequence[RunData]) -> Table | None:
    """The options in which the runs differ; None if there are none."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    rows = []
    for key in keys:
        values = [_value(run.config.get(key, "")) for run in runs]
        if len(set(values)) > 1 and key != "trainer.run_dir":
            rows.append([key, *values])
    columns = ["option", *(run.name for run in runs)]
    return Table("Options in which the runs differ", columns, rows, names=len(columns)) if rows else None


def shot_words(runs: Sequence[RunData]) -> str:
    """The rule that groups classes and the size of each group; for each run if they differ."""
    words = {run.name: _shot_words(run) for run in runs}
    if len(set(words.values())) == 1:
        return words[runs[0].name]
    return "; ".join(f"{name}: {text}" for name, text in words.items())


def stages(run: RunData, view: View) -> list[tuple[str, bool]]:
    """Label of each row of a run and whether it is from before the last step; one row if the step changed nothing."""
    if not run.changed(view):
        return [("as trained", False)]
    return [("as trained", True), (f"after {run.last_step}", False)]


def _shot_words(run: RunData) -> str:
    rules = {
        "mass": "the most frequent classes up to the one that crosses 75 % of the training images are many-shot, those "
        "up to the one that crosses 95 % medium-shot, the rest few-shot",
        "count": "many-shot classes have more than 100 training images, medium-shot 20 to 100, few-shot fewer than 20",
    }
    rule = run.summary["shots"]["rule"]
    sizes = ", ".join(f"{list(run.groups).count(group)} {group}" for group in SHOTS)
    own = run.summary["shots"].get("personal") == "own"
    personal = "; for personal models by the client's own test images" if own else ""
    return f"{rules.get(rule, rule)} ({sizes}{personal})"


# Cards -------------------------------------------------------------------------------------------------------


def _generic_card(run: RunData) -> Card | None:
    part = run.headline("global")
    if part is None:
        return None
    meaning = "of the global test images are classified correctly by the model that all clients share."
    groups = ", ".join(f"{group} {percent(part[f'acc_{group}'])}" for group in SHOTS)
    details = [groups, *_interval_line(run, GM), *_change(run, "global", "acc")]
    return Card("Generic model (GM)", percent(part["acc"]), meaning, details)


def _few_card(run: RunData) -> Card | None:
    part = run.headline("global")
    if part is None or "few" not in run.groups:
        return None
    rare = [c for c, group in enumerate(run.groups) if group == "few"]
    share = float(run.class_counts[rare].sum() / run.class_counts.sum())
    meaning = (
        f"of the test images of the {len(rare)} few-shot classes, which have {percent(share)} of the training images, "
        "are classified correctly by the generic model."
    )
    return Card("Rare classes", percent(part["acc_few"]), meaning, _change(run, "global", "acc_few"))


def _personal_card(run: RunData) -> Card | None:
    part = run.headline("personal")
    if part is None:
        return None
    over = clients_words(run.coverage)
    meaning = f"is the accuracy of a client's personal model on its own test set, averaged over {over}."
    spread = f"{percent(part['acc_std'])} standard deviation between clients"
    details = [spread, *_interval_line(run, PM), *_change(run, "personal", "acc_mean")]
    return Card("Personal models (PM)", percent(part["acc_mean"]), meaning, details)


def _worst_card(run: RunData) -> Card | None:
    part, scores = run.headline("personal"), run.clients.get(ModelView("personal"))
    if part is None or scores is None:
        return None
    over = clients_words(run.coverage)
    meaning = f"is the mean accuracy of the tenth of {over} whose personal models are worst."
    return Card("Worst tenth", percent(part["acc_worst_decile"]), meaning, [worst_words(scores)])


def _cost_card(run: RunData) -> Card | None:
    if "time/round_s" not in run.metrics:
        return None
    seconds = float(np.median(run.metrics["time/round_s"]))
    up, down = (float(np.median(run.metrics[f"comm/bytes_{way}"])) / 1e6 for way in ("up", "down"))
    meaning = "is the median over the evaluated rounds, training and evaluation included."
    details = [f"{up:.3g} MB up and {down:.3g} MB down a round"]
    if run.summary["seconds"]:
        details.append(f"{run.summary['seconds']:.0f} s for the whole run")
    return Card("Time of a round", f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s", meaning, details)


def _interval_line(run: RunData, measure: Measure) -> list[str]:
    ends = _interval(run, measure)
    return [f"95 % interval {ends}"] if ends else []


def _change(run: RunData, view: View, key: str) -> list[str]:
    before, after = run.headline(view, before=True), run.headline(view)
    if not run.changed(view) or not before or not after or before[key] is None or after[key] is None:
        return []
    return [f"{percent(before[key])} before {run.last_step} ({100 * (after[key] - before[key]):+.1f} points)"]


def _alpha(run: RunData) -> str:
    return f" α {run.partition.alpha:g}" if run.partition.has_alpha else ""


# Tables ------------------------------------------------------------------------------------------------------


def _accuracies(title: str, runs: Sequence[RunData], view: View, measures: Sequence[Measure]) -> Table | None:
    rows = []
    for run in runs:
        parts = [(stage, run.headline(view, before)) for stage, before in stages(run, view)]
        for stage, part in [*parts, *_beside(run, view)]:
            if part is not None:
                rows.append([run.name, run.method, stage, *(percent(part.get(measure.name)) for measure in measures)])
    title += f": {', '.join(dict.fromkeys(mean_words(run.coverage) for run in runs))}" if view == "personal" else ""
    table = Table(title, ["run", "method", "classifiers", *(measure.label for measure in measures)], rows, names=3)
    return (table if len(runs) > 1 else _without_run(table)) if rows else None


def _beside(run: RunData, view: View) -> list[tuple[str, Mapping[str, float] | None]]:
    """Numbers of a round chosen by validation, on other test images, and of the validation, where the run has them."""
    chosen, val, own = run.summary.get("selected"), run.summary.get("val"), run.headline(view) or {}
    rows = [(f"round {chosen['round']}, {chosen_on(chosen['metric'])}", chosen[view])] if chosen else []
    rows += [("on the clients' test images together", {"acc": own["acc_clients"]})] if "acc_clients" in own else []
    return rows + ([("validation images, last round", val[view])] if val else [])


FURTHER = {
    "accuracy": (GM, PM, MEASURES["PM accuracy worst"], MEASURES["PM accuracy range"]),
    **{
        generic.title.partition(",")[0]: (generic, personal, *spread)
        for generic, personal, *spread in zip(
            GENERIC_SCORES, PERSONAL_SCORES, SPREADS[2::2], SPREADS[3::2], strict=True
        )
    },
}
"""Measures of the generic model, of the personal ones on average, of the worst client and of the range, by name."""


def _further(runs: Sequence[RunData]) -> Table | None:
    """Further numbers of the last round with intervals; None for runs of older versions, which lack them."""
    rows = []
    for run in runs:
        for name, (generic, personal, worst, spread) in FURTHER.items() if _has_details(run) else ():
            cells = [_shown(run, generic), _interval(run, generic), _shown(run, personal), _interval(run, personal)]
            rows.append([run.name, run.method, name, *cells, _shown(run, worst), _shown(run, spread)])
    title = "Further numbers, last round, with 95 % intervals over test images"
    columns = ["run", "method", "number", "generic", "interval", "personal, mean", "interval", "worst client", "range"]
    table = Table(title, columns, rows, names=3)
    return (table if len(runs) > 1 else _without_run(table)) if rows else None


def _has_details(run: RunData) -> bool:
    return any(MEASURES[key].read(run.summary) is not None for key in ("GM Brier", "PM Brier"))


def _shown(run: RunData, measure: Measure) -> str:
    value = measure.read(run.summary)
    return "–" if value is None else percent(value) if measure.scale == 100 else measure.text([value])


def _interval(run: RunData, measure: Measure) -> str:
    ends = [end.read(run.summary) for end in INTERVALS.get(measure.path, ())]
    return " to ".join(map(percent, ends)) if ends and None not in ends else ""


def _without_run(table: Table) -> Table:
    """The table without the columns that repeat in a report of a single run."""
    return Table(table.title, table.columns[2:], [row[2:] for row in table.rows], names=1)


def _over_seeds(runs: Sequence[RunData]) -> Table | None:
    """Mean and sample standard deviation of headline numbers over runs that differ in the seed alone."""
    settings: dict[str, list[RunData]] = {}
    for run in runs:
        kept = {key: value for key, value in run.config.items() if key not in NOT_SETTINGS}
        if kept:
            settings.setdefault(json.dumps([run.partition.sha256, kept], default=str, sort_keys=True), []).append(run)
    rows = []
    for group in settings.values():
        if len({run.summary["seed"] for run in group}) == len(group) > 1:
            for stage, before in max((stages(group[0], view) for view in KINDS), key=len):
                cells = [_mean_std(group, measure, before) for measure in OVER_SEEDS.values()]
                rows.append([group[0].method, f"{len(group)} seeds", stage, *cells])
    title = "Mean ± sample standard deviation over runs that differ in the seed alone"
    return Table(title, ["method", "runs", "classifiers", *OVER_SEEDS], rows, names=3) if rows else None


def _mean_std(group: Sequence[RunData], measure: Measure, before: bool) -> str:
    values = read_all((run.summary["before_realignment"] if before else run.summary for run in group), measure)
    return f"{measure.text(values)} %" if len(values) == len(group) else "–"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
