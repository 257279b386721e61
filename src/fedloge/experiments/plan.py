"""A plan of many runs, rows x settings x seeds, and what the readers of plan files share."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.checks import check_least
from fedloge.config import given_options
from fedloge.errors import ConfigError, FedlogeError
from fedloge.experiments.runner import Cell, run_cells
from fedloge.experiments.tables import Row
from fedloge.options import Options, in_place

SECTIONS: Mapping[str, type] = {"trainer": dict, "model": dict, "data": dict}
"""Sections of a run's options."""

WORDS = {str: "a string", list: "a list", dict: "a mapping", int: "a whole number", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Runs under common conditions.

    Args:
        rows: Rows times settings, each with a run per seed.
        output_dir: Folder of the tables.
        jobs: Number of runs at the same time; None starts one per core.

    Raises:
        ConfigError: If two runs would be written into the same folder.
    """

    rows: Sequence[Row]
    output_dir: Path
    jobs: int | None = None

    def __post_init__(self) -> None:
        check_least("jobs", self.jobs, 1)
        taken: dict[str, Cell] = {}
        for cell in self.cells():
            other = taken.setdefault(same_path(cell.run), cell)
            if other is not cell:
                problem = f"needs the same folder as {other.name!r}, {str(other.run)!r}"
                remedy = "Give them names that differ in letters or digits, not in case alone."
                raise ConfigError("name", cell.name, problem, remedy)

    def cells(self) -> list[Cell]:
        """Every run once, in the order of execution: seed by seed, realignments after all trainings."""
        found: dict[int, Cell] = {}
        for cell in (cell for row in self.rows for cell in row.cells):
            for each in (cell.source, cell) if cell.source else (cell,):
                found.setdefault(id(each), each)
        seeds = list(dict.fromkeys(cell.seed for cell in found.values()))
        return sorted(found.values(), key=lambda cell: (cell.source is not None, seeds.index(cell.seed)))

    def done(self) -> list[Cell]:
        """The finished runs."""
        return [cell for cell in self.cells() if cell.done]

    def run(self, on_change: Callable[[Sequence[Cell]], None] = lambda cells: None) -> None:
        """Run the cells that are not done."""
        run_cells(self.cells(), self.jobs, on_change)


def check_plans(plans: Sequence[Plan]) -> None:
    """Check what several plans leave in the same folders, before anything is run.

    Raises:
        FedlogeError: If two would write the same tables, or a run exists that was made with other options.
    """
    folders = [same_path(plan.output_dir) for plan in plans]
    for plan, folder in zip(plans, folders, strict=True):
        if folders.count(folder) > 1:
            problem = "would be written by two of the files"
            raise ConfigError(
                "folder", str(plan.output_dir), problem, "Rename one, or run it with another --output_dir."
            )
        for cell in plan.cells():
            cell.check()


def same_path(path: Path) -> str:
    """A text that is equal for paths that some file system does not tell apart, by case or by the code of accents."""
    return unicodedata.normalize("NFKC", str(path)).casefold()


def method_options(sections: Options, method: str, args: Sequence[str]) -> dict[str, Any]:
    """Options of a method's runs: a file's sections, then arguments of ``fedloge fit``; later ones win.

    Raises:
        FedlogeError: If `fedloge fit` does not accept them.
    """
    for word in args:
        if re.match(r"--model(\.class_path)?=", word):
            raise FedlogeError(f"{word!r} has no effect here: the rows name the methods.")
    base = {key: sections[key] for key in SECTIONS if key in sections}
    model = {**base.get("model", {}), "class_path": method}
    return given_options([f"--config={in_place({**base, 'model': model})}", *args])


def seeds_of(options: Options, asked: Any) -> list[int]:
    """Seeds of a row: those ``asked`` for, else the one in its options, else 0.

    Raises:
        ConfigError: If there are both, or the seeds are malformed.
    """
    own = own_seed(options)
    if own is not None and asked is not None:
        raise ConfigError("trainer.seed", own, f"has no effect beside seeds={asked!r}", "Leave one of them out.")
    return read_seeds(next((value for value in (asked, own) if value is not None), 0))


def own_seed(options: Options, default: Any = None) -> Any:
    """The seed that ``fedloge fit`` takes from a run's options."""
    asked = options.get("seed_everything")
    return options.get("trainer", {}).get("seed", default) if isinstance(asked, bool | None) else asked


def seeded(options: Options, seed: int) -> dict[str, Any]:
    """A copy of a run's options with its seed."""
    rest = {name: value for name, value in options.items() if name != "seed_everything"}
    return {**rest, "trainer": {**options.get("trainer", {}), "seed": seed}}


LONGEST, KEPT = 200, 40
"""Largest number of bytes of a folder's name, and characters that are kept of a longer one."""

TAKEN = ("comparison.csv", "comparison.md", "sweep.csv", "sweep.md", "sweep.png")
"""Names of the files beside the folders."""


def slug(name: str) -> str:
    """A name as a folder name: characters other than letters, digits and ``+-.`` become ``_``; long ones are cut.

    Raises:
        ConfigError: If nothing is left, or the name is that of a file.
    """
    text = re.sub(r"[^\w+.-]+", "_", name).strip("_")
    if not text.strip(".") or text.casefold() in TAKEN:
        raise ConfigError("name", name, "cannot be the name of a folder", "Use other letters or digits.")
    return text if len(text.encode()) <= LONGEST else f"{text[:KEPT]}-{digest(text)}"


def digest(text: str) -> str:
    """Eight characters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_seeds(value: Any) -> list[int]:
    """Seeds without duplicates, from ``1``, ``0,1`` or ``[0, 1]``.

    Raises:
        ConfigError: If the value is anything else.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]+( *, *[0-9]+)*", value):
        value = [int(part) for part in value.split(",")]
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError("seeds", value, "must be a whole number or a list of them", "For example 0 or [0, 1, 2].")
    return list(dict.fromkeys(seeds))


def typed(content: Any, keys: Mapping[str, type], where: str) -> dict[str, Any]:
    """A mapping without its null entries, after checking keys and types; without ``keys`` it is returned as it is.

    Raises:
        ConfigError: If it is not a mapping, has an unknown key, or an entry of another type.
    """
    if not isinstance(content, dict):
        raise ConfigError(where, content, "must be a mapping", f"Its keys are {', '.join(keys) or 'options'}.")
    if not keys:
        return content
    given = {key: value for key, value in content.items() if value is not None}
    for key, value in given.items():
        if key not in keys:
            raise ConfigError(f"{where}: {key}", value, "is not supported", f"Known keys are {', '.join(keys)}.")
        kinds = (int, float) if keys[key] is float else keys[key]
        if not isinstance(value, kinds) or (keys[key] in (int, float) and isinstance(value, bool)):
            remedy = "The files in configs/ show the format."
            raise ConfigError(f"{where}: {key}", value, f"must be {WORDS[keys[key]]}", remedy)
    return given


def named(content: Mapping[str, Any], key: str, keys: Mapping[str, type], where: str) -> dict[str, dict[str, Any]]:
    """A section's entries by name, at least one, each checked by :func:`typed`; null stands for an empty one.

    Raises:
        ConfigError: If the section is empty, an entry is malformed, or two names differ in their type alone.
    """
    entries = content.get(key)
    if not entries:
        raise ConfigError(f"{where}: {key}", entries, "has no entry", "Add at least one.")
    if len(set(map(str, entries))) < len(entries):
        raise ConfigError(f"{where}: {key}", list(entries), "has a name twice", "Give each entry a name of its own.")
    return {
        str(name): typed({} if entry is None else entry, keys, f"{where}: {key}.{name}")
        for name, entry in entries.items()
    }
