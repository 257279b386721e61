"""``fedloge compare``: methods x seeds on one dataset, under the same conditions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.errors import ConfigError
from fedloge.experiments.runner import Cell, run_cells
from fedloge.options import override_value, read_mapping

OWN_KEYS = ("output_dir", "seeds", "jobs", "methods")
"""What a comparison's file has besides the sections of a run."""


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Args:
        base: The sections ``trainer``, ``model`` and ``data`` that all methods share.
        methods: Options of each by its name in the table: ``class_path`` where the name is not the method's, the others
            are arguments of the method.
        seeds: Of the runs; the split of the data stays the same.
        output_dir: Where everything goes.
        jobs: Runs at once; None takes one per core.
    """

    base: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    output_dir: Path
    jobs: int | None = None

    def cells(self) -> list[Cell]:
        """A run for each method and seed, seed by seed."""
        cells = []
        for seed in self.seeds:
            for name, options in self.methods.items():
                folder = self.output_dir / slug(name)
                cells.append(Cell(name, seed, self._options(name, options, seed), folder))
        return cells

    def _options(self, name: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
        merged = copy.deepcopy(dict(self.base))
        arguments = dict(options)
        model = merged.setdefault("model", {})
        model["class_path"] = arguments.pop("class_path", name)
        model["init_args"] = {**model.get("init_args", {}), **arguments}
        merged.setdefault("trainer", {})["seed"] = seed
        return merged

    def run(self, on_change: Callable[[Sequence[Cell]], None] = lambda cells: None) -> Sequence[Cell]:
        """Run what is not done yet, and return all cells."""
        return run_cells(self.cells(), self.jobs, on_change)


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison's YAML file.

    Args:
        path: The file.
        overrides: Options for all runs, ``--trainer.rounds=2``, and the file's own, ``--seeds=[0,1]``.

    Raises:
        FedlogeError: If the file or an override is malformed.
    """
    content = read_mapping(path, "--config")
    for override in overrides:
        override_value(content, override)
    if not isinstance(content.get("methods"), dict) or not content["methods"]:
        raise ConfigError(
            "methods", content.get("methods"), "must be a mapping", "List the methods to compare by name."
        )
    own = {key: content.pop(key, None) for key in OWN_KEYS}
    unknown = content.keys() - {"trainer", "model", "data"}
    if unknown:
        key, known = sorted(unknown)[0], ", ".join((*OWN_KEYS, "trainer", "model", "data"))
        raise ConfigError(key, content[key], "is no key of a comparison", f"Known are {known}.")
    seeds, jobs = own["seeds"] if own["seeds"] is not None else [0], own["jobs"]
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError("seeds", seeds, "must be a list of whole numbers", "For example [0, 1, 2].")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ConfigError("jobs", jobs, "must be at least 1", "Leave it out for one per core.")
    output = own["output_dir"] or f"runs/{Path(path).stem}"
    methods = {str(name): options or {} for name, options in own["methods"].items()}
    for name, options in methods.items():
        if not isinstance(options, dict):
            raise ConfigError(f"methods.{name}", options, "must be a mapping of options", "{} has none.")
    return Comparison(content, methods, list(dict.fromkeys(seeds)), Path(output), jobs)


def slug(name: str) -> str:
    """A name as a folder: what is neither letter, digit nor one of ``+-.`` becomes ``_``."""
    return re.sub(r"[^\w+.-]+", "_", name).strip("_")
