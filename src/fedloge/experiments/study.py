"""``fedloge study``: a table or figure of the paper as a file, run at a scale that fits the machine."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloge.checks import check_choice
from fedloge.errors import ConfigError, FedlogeError
from fedloge.experiments.compare import slug
from fedloge.experiments.runner import Cell, run_cells
from fedloge.options import EXECUTION, flatten, meaning, merged, override_value, read_mapping, set_option

SCALES = ("tiny", "small", "full")
UNTRAINED = ("frames", "cosines")
KINDS = ("table", "curve", "degeneration", "pruning", "tsne", *UNTRAINED)
"""What a study shows: accuracies as a table or over a number, diagnostics of trained runs, or SSE-C by itself."""

STUDY_KEYS: Mapping[str, type] = {
    **{"title": str, "kind": str, "paper": str, "notes": list, "scales": dict, "at": dict, "measures": list, "x": str},
    **{"reach": dict, "settings": dict, "rows": dict},
}
SCALE_KEYS: Mapping[str, type] = {
    "about": str,
    "seeds": list,
    "methods": dict,
    "trainer": dict,
    "model": dict,
    "data": dict,
}
ROW_KEYS: Mapping[str, type] = {"method": str, "options": dict, "realign": dict, "printed": dict}
SETTING_KEYS: Mapping[str, type] = {"options": dict, "scales": dict}
FRAME_KEYS: Mapping[str, type] = {"num_classes": int, "dim": int}
"""What the sections of a file may hold."""

FRAME_OPTIONS = ("beta", "gamma", "solver", "frame")
"""Options of a row where nothing is trained: those of :func:`fedloge.etf.sse_c`."""

WORDS = {str: "a text", list: "a list", dict: "a mapping", int: "a whole number"}
OVERRIDE = re.compile(r"--(seeds|(trainer|data)\.[\w.]+|model\.(?!class_path\b)[\w.]+)=")
"""Options that all runs of a study may be given."""


@dataclass(frozen=True)
class Entry:
    """A row of a study in one of its settings.

    Args:
        row: Its name.
        setting: The setting's name; empty where there is only one.
        options: The row's own.
        printed: What the paper prints, by measure.
        cells: Its runs, one per seed.
    """

    row: str
    setting: str
    options: Mapping[str, Any]
    printed: Mapping[str, float]
    cells: Sequence[Cell] = ()


@dataclass(frozen=True)
class Study:
    """A study at a scale.

    Args:
        name: Of its file.
        title: Which table or figure it is.
        kind: One of ``KINDS``.
        scale: ``tiny``, ``small`` or ``full``.
        about: What the scale is, in words.
        paper: The paper's setting, in words.
        notes: What a reader of the paper's numbers must know.
        measures: Columns, keys of ``fedloge.experiments.study_report.MEASURES``.
        x: What the rows of a curve are a number of.
        reach: The accuracy of the measure ``first round``.
        entries: Rows times settings.
        left_out: Settings that this scale does not have.
        output_dir: Where the results go; the runs are beside it, shared with the other studies.
        jobs: Runs at once; None takes one per core.
        shape: Where nothing is trained (``UNTRAINED``): ``num_classes`` and ``dim``.
    """

    name: str
    title: str
    kind: str
    scale: str
    about: str
    paper: str
    notes: Sequence[str]
    measures: Sequence[str]
    entries: Sequence[Entry]
    output_dir: Path
    x: str = ""
    reach: float | None = None
    left_out: Sequence[str] = ()
    jobs: int | None = None
    shape: Mapping[str, int] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """Every run once, those that are realigned first."""
        found: dict[Path, Cell] = {}
        for cell in (cell for entry in self.entries for cell in entry.cells):
            for each in (cell.source, cell) if cell.source else (cell,):
                found.setdefault(each.run, each)
        return sorted(found.values(), key=lambda cell: cell.source is not None)

    def run(self, on_change: Callable[[Sequence[Cell]], None] = lambda cells: None) -> Sequence[Cell]:
        """Run what is not done yet, and return all cells."""
        return run_cells(self.cells(), self.jobs, on_change)


class Cells:
    """Makes the runs of a study; the same options and seed give the same run, whichever studies ask for it.

    Args:
        folder: Where they go.
        seeds: Of each.
    """

    def __init__(self, folder: Path, seeds: Sequence[int]) -> None:
        self.folder, self.seeds = folder, seeds
        self._made: dict[Path, Cell] = {}

    def make(self, label: str, options: Mapping[str, Any], realign: Mapping[str, Any]) -> list[Cell]:
        """A run per seed, realigned again where there are options for that; ``label`` is for people."""
        return [self._make(label, seed, options, realign) for seed in self.seeds]

    def _make(self, label: str, seed: int, options: Mapping[str, Any], realign: Mapping[str, Any]) -> Cell:
        folder = self.folder / slug(f"{options['model']['class_path']}-{_digest(meaning(options))}")
        seeded = copy.deepcopy(dict(options))
        seeded.setdefault("trainer", {})["seed"] = seed
        trained = self._known(Cell(label, seed, seeded, folder))
        if not realign:
            return trained
        folder = folder.with_name(f"{folder.name}-{_digest(realign)}")
        return self._known(Cell(f"{label}, realigned: {_words(realign)}", seed, dict(realign), folder, trained))

    def _known(self, cell: Cell) -> Cell:
        return self._made.setdefault(cell.run, cell)


def load_study(
    path: str | Path,
    scale: str = "tiny",
    overrides: Sequence[str] = (),
    output_dir: str | Path = "runs/studies",
    jobs: int | None = None,
) -> Study:
    """Read a study's YAML file and that of its scale.

    Args:
        path: The study.
        scale: ``tiny``, ``small`` or ``full``.
        overrides: Options for all runs, ``--trainer.executor=serial``, and ``--seeds=[0,1]``.
        output_dir: Of all studies.
        jobs: Runs at once.

    Raises:
        FedlogeError: If a file or an override is malformed, or the study does not have the scale.
    """
    check_choice("scale", scale, SCALES)
    for override in overrides:
        if not OVERRIDE.match(override):
            remedy = "Write --seeds=[0,1], or an option of `fedloge fit` such as --trainer.rounds=2 or --model.lr=0.1"
            raise FedlogeError(f"{override!r} cannot be given to a study. {remedy}.")
    content = _typed(read_mapping(path, "FILE"), STUDY_KEYS, str(path))
    kind = content.get("kind", "table")
    check_choice(f"{path}: kind", kind, KINDS)
    rows = {name: _typed(row or {}, ROW_KEYS, f"{path}: rows.{name}") for name, row in content.get("rows", {}).items()}
    if not rows:
        raise ConfigError(f"{path}: rows", {}, "has no entry", "Name a row.")
    if kind == "curve" and not all(_number(name) for name in rows):
        raise ConfigError(f"{path}: rows", list(rows), "of a curve must be numbers", "For example '0.1'.")
    common: dict[str, Any] = {
        "name": Path(path).stem,
        "title": content.get("title", Path(path).stem),
        "kind": kind,
        "scale": scale,
        "paper": content.get("paper", ""),
        "notes": content.get("notes", ()),
        "measures": content.get("measures", ("GM", "PM")),
        "output_dir": Path(output_dir) / scale / Path(path).stem,
        "x": content.get("x", ""),
        "reach": content.get("reach", {}).get(scale),
        "jobs": jobs,
    }
    at = content.get("at", {}).get(scale) or {}
    if kind in UNTRAINED:
        return _frames(common, rows, _typed(at, FRAME_KEYS, f"{path}: at.{scale}"), overrides)
    folder = Path(output_dir) / scale / "cells"
    entries, left_out, told = _trained(content, rows, scale, Path(path), folder, overrides)
    if not entries:
        raise ConfigError("scale", scale, f"is not one of {str(path)!r}", f"It has {', '.join(_scales(content))}.")
    return Study(**common, about="; ".join(dict.fromkeys(told)), entries=entries, left_out=left_out)


def _trained(
    content: Mapping[str, Any],
    rows: Mapping[Any, Any],
    scale: str,
    path: Path,
    folder: Path,
    overrides: Sequence[str],
) -> tuple[list[Entry], list[str], list[str]]:
    """Rows times settings, the settings that the scale does not have, and what the scale is in the others."""
    at = _typed(content.get("at", {}).get(scale) or {}, {}, f"{path}: at.{scale}")
    entries: list[Entry] = []
    left_out: list[str] = []
    told: list[str] = []
    for setting, said in content.get("settings", {"": {}}).items():
        said = _typed(said or {}, SETTING_KEYS, f"{path}: settings.{setting}")
        file = {**content.get("scales", {}), **said.get("scales", {})}.get(scale)
        if file is None:
            left_out.append(str(setting))
            continue
        base = _typed(read_mapping(path.parent / str(file), "scales"), SCALE_KEYS, str(file))
        for name, value in {**at, **said.get("options", {})}.items():
            set_option(base, str(name), value)
        given: dict[str, Any] = {}
        for override in overrides:
            override_value(given, override)
        unnamed = tuple(f"--{name}" for name in (*EXECUTION, "data.source.init_args.root"))
        changes = _words(at, [override for override in overrides if not override.startswith(unnamed)])
        told.append(base.pop("about", str(file)) + (f", with {changes}" if changes else ""))
        seeds = _seeds(given.pop("seeds", base.pop("seeds", [0])))
        cells = Cells(folder, seeds)
        entries += [_entry(cells, base, given, str(name), str(setting), row) for name, row in rows.items()]
    return entries, left_out, told


def _frames(
    common: Mapping[str, Any], rows: Mapping[Any, Any], shape: Mapping[str, int], overrides: Sequence[str]
) -> Study:
    if overrides:
        raise FedlogeError(f"{overrides[0]!r} has no meaning for {common['name']}: nothing is trained. Leave it out.")
    if shape.keys() != FRAME_KEYS.keys():
        raise ConfigError(f"at.{common['scale']}", dict(shape), "must hold num_classes and dim", "Give both.")
    for name, row in rows.items():
        for key, value in row.get("options", {}).items():
            if key not in FRAME_OPTIONS:
                remedy = f"Known are {', '.join(FRAME_OPTIONS)}."
                raise ConfigError(f"rows.{name}.options.{key}", value, "is no option of SSE-C", remedy)
    entries = [Entry(str(name), "", row.get("options", {}), row.get("printed", {})) for name, row in rows.items()]
    about = f"C = {shape['num_classes']}, d = {shape['dim']}; nothing is trained"
    return Study(**common, about=about, entries=entries, shape=shape)


def _entry(
    cells: Cells, base: Mapping[str, Any], given: Mapping[str, Any], name: str, setting: str, row: Mapping[str, Any]
) -> Entry:
    """A row's runs: options of the scale, of its method, of the command line and of the row, the last one winning."""
    method, own = row.get("method", "FedLoGe"), row.get("options", {})
    options = merged({key: value for key, value in base.items() if key != "methods"}, given)
    arguments = (
        base.get("model", {}),
        {"init_args": base.get("methods", {}).get(method) or {}},
        given.get("model", {}),
    )
    options["model"] = merged(merged({}, *arguments), {"class_path": method, "init_args": own})
    printed = row.get("printed", {})
    if setting:
        printed = printed.get(setting) or {}
    for measure, value in printed.items():
        if not isinstance(value, int | float):
            raise ConfigError(f"rows.{name}.printed.{measure}", value, "must be a number", "Write it as printed.")
    label = " ".join(part for part in (method, _words(own), setting) if part)
    return Entry(name, setting, own, printed, cells.make(label, options, row.get("realign", {})))


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError("seeds", seeds, "must be a list of whole numbers", "For example [0, 1, 2].")
    return list(dict.fromkeys(seeds))


def _scales(content: Mapping[str, Any]) -> list[str]:
    holders = [content, *(said or {} for said in (content.get("settings") or {}).values())]
    return [scale for scale in SCALES if any(scale in (holder.get("scales") or {}) for holder in holders)]


def _words(options: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    return " ".join([*(f"{key}={value}" for key, value in options.items()), *(o.removeprefix("--") for o in overrides)])


def _number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(flatten(options), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _typed(content: Any, keys: Mapping[str, type], where: str) -> dict[str, Any]:
    """A mapping whose entries are known and of their types; empty ones are left out. Without ``keys`` all are known."""
    if not isinstance(content, dict):
        raise ConfigError(where, content, "must be a mapping", f"Its keys are {', '.join(keys) or 'options'}.")
    for key, value in content.items() if keys else ():
        if key not in keys:
            raise ConfigError(f"{where}: {key}", value, "is not known", f"Known are {', '.join(keys)}.")
        if value is not None and not isinstance(value, keys[key]):
            raise ConfigError(f"{where}: {key}", value, f"must be {WORDS[keys[key]]}", "See configs/studies/.")
    return {key: value for key, value in content.items() if value is not None}
