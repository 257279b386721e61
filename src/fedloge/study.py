"""``fedloge study``: a table or figure of the paper as a file, run at a scale that fits the machine."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloge.cells import Cell, flatten, meaning, read_mapping, run_cells
from fedloge.checks import check_choice
from fedloge.compare import override_value, slug
from fedloge.errors import ConfigError
from fedloge.sweep import set_option

SCALES = ("tiny", "small", "full")
KINDS = ("table", "curve", "frames", "degeneration", "pruning", "tsne", "cosines")
"""What a study shows: accuracies as a table or over a number, statistics of SSE-C, or diagnostics of trained runs."""

STUDY_KEYS = ("title", "kind", "paper", "notes", "scales", "at", "measures", "x", "reach", "settings", "rows")
SCALE_KEYS = ("about", "seeds", "methods", "trainer", "model", "data")
ROW_KEYS = ("method", "options", "realign", "printed")
SETTING_KEYS = ("options", "scales")


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
        measures: Columns, keys of ``fedloge.report.study.MEASURES``.
        x: What the rows of a curve are a number of.
        reach: The accuracy of the measure ``first round``.
        entries: Rows times settings.
        left_out: Settings that this scale does not have.
        output_dir: Where the results go; the runs are beside it, shared with the other studies.
        jobs: Runs at once; None takes one per core.
        shape: Where nothing is trained (``kind=frames``): ``num_classes`` and ``dim``.
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
    content = _read(path, "FILE", STUDY_KEYS)
    kind = content.get("kind", "table")
    check_choice(f"{path}: kind", kind, KINDS)
    if not content.get("rows"):
        raise ConfigError(f"{path}: rows", content.get("rows"), "must be a mapping with an entry", "Name a row.")
    rows = {name: row or {} for name, row in _section(content, "rows", path).items()}
    for name, row in rows.items():
        _refuse_unknown(row, ROW_KEYS, f"rows.{name}", path)
    common: dict[str, Any] = {
        "name": Path(path).stem,
        "title": str(content.get("title", Path(path).stem)),
        "kind": kind,
        "scale": scale,
        "paper": str(content.get("paper", "")),
        "notes": list(content.get("notes") or ()),
        "measures": list(content.get("measures") or ("GM", "PM")),
        "output_dir": Path(output_dir) / scale / Path(path).stem,
        "x": str(content.get("x", "")),
        "reach": _section(content, "reach", path).get(scale),
        "jobs": jobs,
    }
    at = _section(content, "at", path).get(scale) or {}
    if kind == "frames":
        if at.keys() != {"num_classes", "dim"}:
            raise ConfigError(f"{path}: at.{scale}", at, "must hold num_classes and dim", "Give both.")
        frames = [
            Entry(str(name), "", row.get("options") or {}, row.get("printed") or {}) for name, row in rows.items()
        ]
        about = f"C = {at['num_classes']}, d = {at['dim']}; nothing is trained"
        return Study(**common, about=about, entries=frames, shape=at)
    entries: list[Entry] = []
    left_out: list[str] = []
    told: list[str] = []
    for setting, said in (_section(content, "settings", path) or {"": {}}).items():
        _refuse_unknown(said, SETTING_KEYS, f"settings.{setting}", path)
        file = {**_section(content, "scales", path), **said.get("scales", {})}.get(scale)
        if file is None:
            left_out.append(str(setting))
            continue
        base = _read(Path(path).parent / file, "scales", SCALE_KEYS)
        _override(base, {**at, **said.get("options", {})}, overrides)
        told.append(", ".join([str(base.pop("about", file)), *([f"with {_words(at)}"] if at else [])]))
        cells = Cells(Path(output_dir) / scale / "cells", _seeds(base.pop("seeds", [0])))
        entries += [_entry(cells, base, str(name), str(setting), row) for name, row in rows.items()]
    if not entries:
        raise ConfigError("scale", scale, f"is not one of {str(path)!r}", f"It has {', '.join(_scales(content))}.")
    return Study(**common, about="; ".join(dict.fromkeys(told)), entries=entries, left_out=left_out)


def _entry(cells: Cells, base: Mapping[str, Any], name: str, setting: str, row: Mapping[str, Any]) -> Entry:
    method, own = row.get("method", "FedLoGe"), row.get("options") or {}
    options = copy.deepcopy({key: value for key, value in base.items() if key != "methods"})
    model = options.setdefault("model", {})
    model["class_path"] = method
    defaults = base.get("methods", {}).get(method) or {}
    model["init_args"] = {**model.get("init_args", {}), **defaults, **own}
    printed = row.get("printed") or {}
    if setting:
        printed = printed.get(setting) or {}
    label = " ".join(part for part in (method, _words(own), setting) if part)
    return Entry(name, setting, own, printed, cells.make(label, options, row.get("realign") or {}))


def _override(base: dict[str, Any], options: Mapping[str, Any], overrides: Iterable[str]) -> None:
    for name, value in options.items():
        set_option(base, name, value)
    for override in overrides:
        override_value(base, override)


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError("seeds", seeds, "must be a list of whole numbers", "For example [0, 1, 2].")
    return list(dict.fromkeys(seeds))


def _scales(content: Mapping[str, Any]) -> list[str]:
    holders = [content, *(said or {} for said in (content.get("settings") or {}).values())]
    return [scale for scale in SCALES if any(scale in (holder.get("scales") or {}) for holder in holders)]


def _words(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(flatten(options), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _read(path: str | Path, argument: str, keys: Sequence[str]) -> dict[str, Any]:
    content = read_mapping(path, argument)
    _refuse_unknown(content, keys, "", path)
    return content


def _refuse_unknown(content: Any, keys: Sequence[str], where: str, path: str | Path) -> None:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {where}", content, "must be a mapping", f"Its keys are {', '.join(keys)}.")
    for key in content.keys() - set(keys):
        name = f"{where}.{key}" if where else key
        raise ConfigError(f"{path}: {name}", content[key], "is not known", f"Known are {', '.join(keys)}.")


def _section(content: Mapping[str, Any], key: str, path: str | Path) -> dict[Any, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key}", value, "must be a mapping", "See configs/studies/.")
    return value
