"""A plan of many runs, rows x settings x seeds, and what the readers of plan files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.errors import ConfigError
from fedloge.experiments.runner import Cell, run_cells
from fedloge.experiments.tables import Row
from fedloge.options import Options, merged

SECTIONS: Mapping[str, type] = {"trainer": dict, "model": dict, "data": dict}
"""Sections of a run's options."""

WORDS = {str: "a string", list: "a list", dict: "a mapping", int: "a whole number"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Runs under common conditions.

    Args:
        rows: Rows times settings, each with a run per seed.
        output_dir: Folder of the tables.
        jobs: Number of runs at the same time; None starts one per core.
    """

    rows: Sequence[Row]
    output_dir: Path
    jobs: int | None = None

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


def seeded(options: Options, seed: int) -> dict[str, Any]:
    """A copy of a run's options with its seed."""
    return merged(options, {"trainer": {"seed": seed}})


def slug(name: str) -> str:
    """A name as a folder name: characters other than letters, digits and ``+-.`` become ``_``."""
    return re.sub(r"[^\w+.-]+", "_", name).strip("_")


def read_seeds(value: Any) -> list[int]:
    """Seeds without duplicates, from ``1``, ``0,1`` or ``[0, 1]``.

    Raises:
        ConfigError: If the value is anything else.
    """
    if isinstance(value, str) and re.fullmatch(r"\d+( *, *\d+)*", value):
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
        if not isinstance(value, keys[key]):
            remedy = "The files in configs/ show the format."
            raise ConfigError(f"{where}: {key}", value, f"must be {WORDS[keys[key]]}", remedy)
    return given


def named(content: Mapping[str, Any], key: str, keys: Mapping[str, type], where: str) -> dict[str, dict[str, Any]]:
    """A section's entries by name, at least one, each checked by :func:`typed`; null stands for an empty one.

    Raises:
        ConfigError: If the section is empty, or an entry is malformed.
    """
    if not content.get(key):
        raise ConfigError(f"{where}: {key}", content.get(key), "has no entry", "Add at least one.")
    return {str(name): typed(entry or {}, keys, f"{where}: {key}.{name}") for name, entry in content[key].items()}
