"""``fedloge study``: a table or figure of the paper as a file, run at a scale that fits the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloge.checks import check_choice
from fedloge.errors import ConfigError, FedlogeError
from fedloge.experiments.plan import SECTIONS, Plan, digest, method_options, named, seeded, seeds_of, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import (
    EXECUTION,
    Options,
    arguments,
    flatten,
    joined,
    meaning,
    option_name,
    read_mapping,
    set_own,
    value_of,
)
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
    overrides = joined(overrides)
    content = typed(read_mapping(path, "FILE"), STUDY_KEYS, str(path))
    kind, rows = content.get("kind", "table"), named(content, "rows", ROW_KEYS, str(path))
    _check(content, kind, rows, path)
    at = typed(content.get("at", {}).get(scale) or {}, FRAME_KEYS if kind in UNTRAINED else {}, f"{path}: at.{scale}")
    if kind in UNTRAINED:
        found: dict[str, Any] = _untrained(rows, at, path, scale, overrides)
    else:
        settings = _settings(content, at, path, scale, overrides)
        kept = {setting.name for setting in settings}
        folder, made = Path(output_dir) / scale / "cells", dict[Path, Cell]()
        found = {
            "rows": [setting.row(name, row, folder, made) for setting in settings for name, row in rows.items()],
            "about": "; ".join(dict.fromkeys(setting.about for setting in settings)),
            "left_out": [str(name) for name in content.get("settings", ()) if str(name) not in kept],
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


def _check(content: Mapping[str, Any], kind: str, rows: Mapping[str, Any], path: Path) -> None:
    """Check what a file holds beside its runs."""
    check_choice(f"{path}: kind", kind, KINDS)
    if kind == "curve" and not all(map(_is_number, rows)):
        raise ConfigError(f"{path}: rows", list(rows), "of a curve must be numbers", "For example '0.1'.")
    for key in ("notes", "measures"):
        for text in content.get(key, ()):
            if not isinstance(text, str):
                remedy = "Quote it: YAML reads a colon followed by a space as a mapping."
                raise ConfigError(f"{path}: {key}", text, "must be a string", remedy)
    typed(content.get("reach", {}), dict.fromkeys(SCALES, float), f"{path}: reach")


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
    own = [
        Row(name, options=row.get("options", {}), printed=_printed(name, row.get("printed", {})))
        for name, row in rows.items()
    ]
    return {"about": about, "rows": own, "shape": shape}


@dataclass(frozen=True)
class Setting:
    """Conditions of runs.

    Args:
        name: Name of the setting; empty if a study has only one.
        scale: Content of the scale's file, with what the study changes of it.
        changed: Options of ``fedloge fit`` that the study changes.
        given: Those of the command line.
        about: The scale in words, with what the study and the command line change.
    """

    name: str
    scale: Options
    changed: Sequence[str]
    given: Sequence[str]
    about: str

    def row(self, name: str, row: Options, folder: Path, made: dict[Path, Cell]) -> Row:
        """A row and its runs; the same options and seed give the same run, also in other studies.

        Later options win: the scale's, its method's, the command line's, the row's own.

        Args:
            name: Name of the row.
            row: Its entry in the study's file.
            folder: Folder of all runs.
            made: Runs of other rows by their folders; those of this row are added.
        """
        method, own, realign = row.get("method", "FedLoGe"), row.get("options", {}), row.get("realign", {})
        defaults = typed(self.scale.get("methods", {}).get(method) or {}, {}, f"methods.{method}")
        words = [*self.changed, *arguments(defaults, "model."), *self.given, *arguments(own, "model.")]
        options = method_options(self.scale, method, words)
        folder /= slug(f"{options['model']['class_path']}-{_digest(_as_written(options, self.scale, words))}")
        label = " ".join([method, *_words(own), *([self.name] if self.name else [])])
        seeds = seeds_of(options, self.scale.get("seeds"))
        cells = [Cell(label, seed, seeded(options, seed), folder) for seed in seeds]
        cells = [made.setdefault(cell.run, cell) for cell in cells]
        if realign:
            method_options(self.scale, method, [*words, *arguments(realign, "model.")])
            folder = Path(f"{folder}-{_digest(flatten(realign))}")
            label = " ".join([f"{label}, realigned:", *_words(realign)])
            cells = [Cell(label, cell.seed, dict(realign), folder, cell) for cell in cells]
            cells = [made.setdefault(cell.run, cell) for cell in cells]
        printed = row.get("printed", {})
        printed = printed.get(self.name) or {} if self.name else printed
        return Row(name, cells, self.name, own, _printed(name, printed))


def _settings(
    content: Mapping[str, Any], at: Mapping[str, Any], path: Path, scale: str, overrides: Sequence[str]
) -> list[Setting]:
    """The settings that the scale has."""
    entries = named(content, "settings", SETTING_KEYS, str(path)) if "settings" in content else {"": {}}
    scales = {name: {**content.get("scales", {}), **entry.get("scales", {})} for name, entry in entries.items()}
    found = []
    for name, files in scales.items():
        if files.get(scale) is not None:
            file = beside(path, str(files[scale]))
            base = typed(read_mapping(file, "scales"), SCALE_KEYS, str(files[scale]))
            words = arguments({**at, **entries[name].get("options", {})})
            changed = set_own(base, words, ("about", "seeds", "methods"))
            given = set_own(base, overrides, ("seeds",))
            about = _about(str(base.get("about", files[scale])), at, overrides)
            found.append(Setting(name, base, changed, given, about))
    if not found:
        known = [each for each in SCALES if any(files.get(each) for files in scales.values())]
        raise ConfigError("scale", scale, f"is not one of {str(path)!r}", f"It has {', '.join(known)}.")
    return found


def _about(scale: str, at: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """A scale in words, with the options that the study and the command line change."""
    unnamed = (*EXECUTION, "data.source.root")
    given = [word.removeprefix("--") for word in overrides if not option_name(word).startswith(unnamed)]
    changes = " ".join([*_words(at), *given])
    return f"{scale}, with {changes}" if changes else scale


def _printed(name: str, printed: Any) -> dict[str, float]:
    """The paper's values of a row."""
    keys = dict.fromkeys(printed, float) if isinstance(printed, dict) else {}
    return typed(printed, keys, f"rows.{name}.printed")


def _words(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _as_written(options: Options, scale: Options, words: Sequence[str]) -> dict[str, Any]:
    """What options mean, by name, with numbers as they are written, 20 and not 20.0: folders are named by it."""
    sections = {key: scale[key] for key in SECTIONS if key in scale}
    sources = [sections, *({option_name(word): value_of(word)} for word in words)]
    written = {name: value for each in sources for name, value in flatten(each, ("init_args",)).items()}
    short = {name: name.replace(".init_args", "") for name in meaning(options)}
    return {
        name: written[short[name]] if written.get(short[name]) == value else value
        for name, value in meaning(options).items()
    }


def _digest(options: Options) -> str:
    return digest(json.dumps(options, sort_keys=True, ensure_ascii=False, default=str))
