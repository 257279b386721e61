"""``fedloge compare``: methods x seeds on one dataset, under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloge.checks import check_least
from fedloge.experiments.plan import SECTIONS, Plan, Row, named, read_seeds, seeded, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.options import override_value, read_mapping

KEYS: Mapping[str, type] = {"output_dir": str, "seeds": object, "jobs": int, "methods": dict, **SECTIONS}


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a comparison's YAML file: the sections of a run, and methods with their options by name.

    Args:
        path: The file.
        overrides: Options of all runs, such as ``--trainer.rounds=2``, and keys of the file, such as ``--seeds=0,1``.

    Raises:
        FedlogeError: If the file or an override is malformed.
    """
    content = read_mapping(path, "--config")
    for override in overrides:
        override_value(content, override)
    content = typed(content, KEYS, str(path))
    check_least("jobs", content.get("jobs"), 1)
    seeds = read_seeds(content.get("seeds", 0))
    base = {key: content[key] for key in SECTIONS if key in content}
    output_dir = Path(content.get("output_dir", f"runs/{Path(path).stem}"))
    rows = []
    for name, arguments in named(content, "methods", {}, str(path)).items():
        options = with_method(base, name, arguments)
        cells = [Cell(name, seed, seeded(options, seed), output_dir / slug(name)) for seed in seeds]
        rows.append(Row(name, cells))
    return Plan(rows=rows, output_dir=output_dir, jobs=content.get("jobs"))


def with_method(base: Mapping[str, Any], name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method's runs; its class is ``name`` unless the arguments have a ``class_path``."""
    model = base.get("model", {})
    own = {key: value for key, value in arguments.items() if key != "class_path"}
    class_path = arguments.get("class_path", name)
    return {**base, "model": {**model, "class_path": class_path, "init_args": {**model.get("init_args", {}), **own}}}
