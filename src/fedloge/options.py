"""Nested options as in YAML: flatten, merge and override them, and tell which of them do not change a result."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedloge.errors import FedlogeError

Options = Mapping[str, Any]
"""A nested mapping, as in a YAML file for ``fedloge fit``."""


EXECUTION = (
    *(f"trainer.{name}" for name in ("executor", "logger", "callbacks", "run_dir", "overwrite", "profile")),
    *(f"trainer.{name}" for name in ("checkpoint_every", "accelerator", "devices")),
    "report",
)
"""Options that say where and how a run is done; its result does not depend on them."""


def flatten(options: Options, prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def flatten_objects(options: Options, prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names without ``init_args``; an object's own name stands for its class."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        inner = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}" if prefix else str(key)
        flat.update(flatten_objects(value, inner) if isinstance(value, Mapping) else {inner: value})
    return flat


def meaning(options: Options) -> dict[str, Any]:
    """Nested options by their dotted names, without those that do not change a result."""
    return {name: value for name, value in flatten(options).items() if not name.startswith(EXECUTION)}


def read_mapping(path: str | Path, argument: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FedlogeError: If it cannot be read, is not YAML or holds something else; names the ``argument``.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FedlogeError(f"{argument}={str(path)!r} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise FedlogeError(f"{argument}={str(path)!r} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise FedlogeError(f"{argument}={str(path)!r} holds no mapping.")
    return content


def merged(first: Options, *others: Options) -> dict[str, Any]:
    """Nested options with those of the others put over them; another ``class_path`` comes with options of its own."""
    result = copy.deepcopy(dict(first))
    for other in others:
        for key, value in other.items():
            result[key] = _over(result.get(key), value)
    return result


def _over(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return copy.deepcopy(new)
    replaced = "class_path" in new and new["class_path"] != old.get("class_path")
    return copy.deepcopy(dict(new)) if replaced else merged(old, new)


def override_value(content: dict[str, Any], override: str) -> None:
    """Set ``--a.b.c=value`` in a nested mapping; ``model.x`` stands for ``model.init_args.x``."""
    match = re.fullmatch(r"--([\w.]+)=(.*)", override, re.DOTALL)
    if not match:
        raise FedlogeError(f"{override!r} is not understood. Write --key=value, for example --trainer.rounds=2.")
    *path, last = match[1].split(".")
    if path[:1] == ["model"] and [*path, last][1] not in ("class_path", "init_args"):
        path.insert(1, "init_args")
    place = content
    for key in path:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise FedlogeError(f"{override!r} cannot be set: {key} is not a section.")
    try:
        place[last] = yaml.safe_load(match[2])
    except yaml.YAMLError as error:
        raise FedlogeError(f"{override!r} is not understood: {match[2]!r} is not YAML.") from error


def set_option(options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option as the command line would; there, and here, a text is read as YAML ("null" is none)."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
    override_value(options, f"--{name}={text.strip()}")


HARMLESS = (
    *EXECUTION,
    *("trainer.rounds", "trainer.on_client_failure", "trainer.min_clients"),
    *("data.partition_file", "data.source.init_args.root", "seed_everything"),
)
"""Options that may change when a run goes on without changing what it means. The partition is checked by its hash."""


def refuse_lost_overrides(args: Sequence[str]) -> None:
    """A value given before --config would silently be replaced by the file's."""
    position = next((i for i, arg in enumerate(args) if arg == "--config" or arg.startswith("--config=")), 0)
    for arg in args[:position]:
        if arg.startswith("--"):
            raise FedlogeError(f"{arg} stands before --config, whose values would replace it. Put it after --config.")
