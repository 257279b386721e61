"""``fedloge study``: a table or figure of the paper as a file, run at a scale that fits the machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloge.checks import check_choice
from fedloge.errors import ConfigError, FedlogeError
from fedloge.experiments.plan import SECTIONS, Plan, named, read_seeds, seeded, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import EXECUTION, flatten, meaning, merged, override_value, read_mapping, set_option
from fedloge.system.configs import beside

SCALES = ("tiny", "small", "full")
UNTRAINED = ("frames", "cosines")
KINDS = ("table", "curve", "degeneration", "pruning", "tsne", *UNTRAINED)
"""What a study shows: accuracies as a table or over a number, diagnostics of trained runs, or SSE-C by itself."""

STUDY_KEYS: Mapping[str, type] = {
    **{"title": str, "kind": str, "paper": str, "notes": list, "scales": dict, "at": dict, "measures": list, "x": str},
    **{"reach": dict, "settings": dict, "rows": dict},
}
SCALE_KEYS: Mapping[str, type] = {"about": str, "seeds": object, "methods": dict, **SECTIONS}
ROW_KEYS: Mapping[str, type] = {"method": str, "options": dict, "realign": dict, "printed": dict}
SETTING_KEYS: Mapping[str, type] = {"options": dict, "scales": dict}
FRAME_KEYS: Mapping[str, type] = {"num_classes": int, "dim": int}
"""Keys of the sections of a file."""

FRAME_OPTIONS = ("beta", "gamma", "solver", "frame")
"""Options of a row of an untrained study: those of :func:`fedloge.etf.sse_c`."""

OVERRIDE = re.compile(r"--(seeds|(trainer|data)\.[\w.]+|model\.(?!class_path\b)[\w.]+)=")
"""Options that may be given for all runs of a study."""


@dataclass(frozen=True, kw_only=True)
class Study(Plan):
    """A study at a scale; its runs are in a folder that all studies share.

    Args:
        title: Name of the table or figure.
        kind: One of ``KINDS``.
        scale: ``tiny``, ``small`` or ``full``.
        about: The scale's setting, in words.
        paper: The paper's setting, in words.
        notes: Remarks on the paper's numbers.
        measures: Columns, keys of ``fedloge.experiments.study_report.KNOWN``.
        x: Quantity that the names of a curve's rows are values of.
        reach: Accuracy that defines the measure ``first round``.
        left_out: Settings that this scale does not have.
        shape: ``num_classes`` and ``dim`` of an untrained study; empty for others.
    """

    title: str
    kind: str
    scale: str
    about: str = ""
    paper: str = ""
    notes: Sequence[str] = ()
    measures: Sequence[str] = ("GM", "PM")
    x: str = ""
    reach: float | None = None
    left_out: Sequence[str] = ()
    shape: Mapping[str, int] = field(default_factory=dict)


def load_study(
    path: str | Path,
    scale: str = "tiny",
    overrides: Sequence[str] = (),
    output_dir: str | Path = "runs/studies",
    jobs: int | None = None,
) -> Study:
    """Read a study's YAML file and that of its scale.

    Args:
        path: The study's file.
        scale: ``tiny``, ``small`` or ``full``.
        overrides: Options of all runs, such as ``--trainer.executor=serial``, and ``--seeds=0,1``.
        output_dir: Folder of all studies.
        jobs: Number of runs at the same time; None starts one per core.

    Raises:
        FedlogeError: If a file or an override is malformed, or the study does not have the scale.
    """
    path = Path(path)
    check_choice("scale", scale, SCALES)
    for override in overrides:
        if not OVERRIDE.match(override):
            remedy = "Write --seeds=0,1, or an option of `fedloge fit` such as --trainer.rounds=2 or --model.lr=0.1"
            raise FedlogeError(f"{override!r} cannot be given to a study. {remedy}.")
    content = typed(read_mapping(path, "FILE"), STUDY_KEYS, str(path))
    kind = content.get("kind", "table")
    check_choice(f"{path}: kind", kind, KINDS)
    rows = named(content, "rows", ROW_KEYS, str(path))
    if kind == "curve" and not all(map(_is_number, rows)):
        raise ConfigError(f"{path}: rows", list(rows), "of a curve must be numbers", "For example '0.1'.")
    for note in content.get("notes", ()):
        if not isinstance(note, str):
            remedy = "Quote the note: YAML reads a colon followed by a space as a mapping."
            raise ConfigError(f"{path}: notes", note, "must be a string", remedy)
    at = typed(content.get("at", {}).get(scale) or {}, FRAME_KEYS if kind in UNTRAINED else {}, f"{path}: at.{scale}")
    if kind in UNTRAINED:
        found: dict[str, Any] = _untrained(rows, at, path, scale, overrides)
    else:
        settings = _settings(content, at, path, scale)
        runs = Runs(Path(output_dir) / scale / "cells", overrides)
        found = {
            "rows": [runs.row(name, row, *setting) for setting in settings.items() for name, row in rows.items()],
            "about": "; ".join(dict.fromkeys(runs.about(base, at) for base in settings.values())),
            "left_out": [str(name) for name in content.get("settings", ()) if str(name) not in settings],
        }
    return Study(
        **{key: content[key] for key in ("paper", "notes", "measures", "x") if key in content},
        **found,
        title=content.get("title", path.stem),
        kind=kind,
        scale=scale,
        reach=content.get("reach", {}).get(scale),
        output_dir=Path(output_dir) / scale / path.stem,
        jobs=jobs,
    )


def _untrained(
    rows: Mapping[str, Any], shape: Mapping[str, int], path: Path, scale: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Fields of a study of SSE-C by itself."""
    if overrides:
        raise FedlogeError(f"{overrides[0]!r} has no meaning for {path.stem}: nothing is trained. Leave it out.")
    if shape.keys() != FRAME_KEYS.keys():
        raise ConfigError(f"at.{scale}", dict(shape), "must hold num_classes and dim", "Add both.")
    for name, row in rows.items():
        for key, value in row.get("options", {}).items():
            if key not in FRAME_OPTIONS:
                remedy = f"Known options are {', '.join(FRAME_OPTIONS)}."
                raise ConfigError(f"rows.{name}.options.{key}", value, "is no option of SSE-C", remedy)
    about = f"C = {shape['num_classes']}, d = {shape['dim']}; nothing is trained"
    own = [Row(name, options=row.get("options", {}), printed=row.get("printed", {})) for name, row in rows.items()]
    return {"about": about, "rows": own, "shape": shape}


def _settings(content: Mapping[str, Any], at: Mapping[str, Any], path: Path, scale: str) -> dict[str, dict[str, Any]]:
    """Common options of the runs in each setting that the scale has."""
    entries = named(content, "settings", SETTING_KEYS, str(path)) if "settings" in content else {"": {}}
    scales = {setting: {**content.get("scales", {}), **entry.get("scales", {})} for setting, entry in entries.items()}
    found: dict[str, dict[str, Any]] = {}
    for setting, files in scales.items():
        if files.get(scale) is not None:
            file = beside(path, str(files[scale]))
            base = typed(read_mapping(file, "scales"), SCALE_KEYS, str(files[scale]))
            found[setting] = {"about": str(files[scale]), **base}
            for name, value in {**at, **entries[setting].get("options", {})}.items():
                set_option(found[setting], str(name), value)
    if not found:
        known = [each for each in SCALES if any(files.get(each) for files in scales.values())]
        raise ConfigError("scale", scale, f"is not one of {str(path)!r}", f"It has {', '.join(known)}.")
    return found


class Runs:
    """Makes the runs of a study; the same options and seed give the same run, also in other studies.

    Args:
        folder: Folder of the runs.
        overrides: Options of all runs, as on the command line.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, overrides
        self._given: dict[str, Any] = {}
        self._made: dict[Path, Cell] = {}
        for override in overrides:
            override_value(self._given, override)

    def about(self, base: Mapping[str, Any], at: Mapping[str, Any]) -> str:
        """A setting's scale in words, with the options that the study and the command line change."""
        unnamed = tuple(f"--{name}" for name in (*EXECUTION, "data.source.init_args.root"))
        given = [override.removeprefix("--") for override in self.overrides if not override.startswith(unnamed)]
        changes = " ".join([*_words(at), *given])
        return f"{base['about']}, with {changes}" if changes else str(base["about"])

    def row(self, name: str, row: Mapping[str, Any], setting: str, base: Mapping[str, Any]) -> Row:
        """A row and its runs. Later options win: the scale's, its method's, the command line's, the row's own."""
        method, own, given = row.get("method", "FedLoGe"), row.get("options", {}), self._given
        options = merged(*({key: each[key] for key in SECTIONS if key in each} for each in (base, given)))
        defaults = {"init_args": base.get("methods", {}).get(method) or {}}
        asked = given.get("model", {}), {"class_path": method, "init_args": own}
        options["model"] = merged(base.get("model", {}), defaults, *asked)
        printed = row.get("printed", {})
        printed = printed.get(setting) or {} if setting else printed
        for measure, value in printed.items():
            if not isinstance(value, int | float):
                remedy = "Write it as printed."
                raise ConfigError(f"rows.{name}.printed.{measure}", value, "must be a number", remedy)
        label = " ".join([method, *_words(own), *([setting] if setting else [])])
        seeds = read_seeds(given.get("seeds", base.get("seeds", 0)))
        return Row(name, self._cells(label, options, row.get("realign", {}), seeds), setting, own, printed)

    def _cells(
        self, label: str, options: Mapping[str, Any], realign: Mapping[str, Any], seeds: Sequence[int]
    ) -> list[Cell]:
        """A run per seed, realigned again if there are options for that; ``label`` is for messages."""
        folder = self.folder / slug(f"{options['model']['class_path']}-{_digest(meaning(options))}")
        trained = [self._known(Cell(label, seed, seeded(options, seed), folder)) for seed in seeds]
        if not realign:
            return trained
        folder = folder.with_name(f"{folder.name}-{_digest(realign)}")
        label = " ".join([f"{label}, realigned:", *_words(realign)])
        return [self._known(Cell(label, cell.seed, dict(realign), folder, cell)) for cell in trained]

    def _known(self, cell: Cell) -> Cell:
        return self._made.setdefault(cell.run, cell)


def _words(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(flatten(options), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
