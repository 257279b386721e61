"""Nested options as in YAML: read, check, flatten, merge and override them, and know which never change a result."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedloge.errors import FedlogeError, did_you_mean
from fedloge.help import COMMON

Options = Mapping[str, Any]
"""A nested mapping, as in a YAML file for ``fedloge fit``."""


EXECUTION = (
    *(f"trainer.{name}" for name in ("executor", "logger", "callbacks", "run_dir", "overwrite", "profile")),
    *(f"trainer.{name}" for name in ("checkpoint_every", "accelerator", "devices")),
    "report",
)
"""Options of where and how a run is executed; the result does not depend on them."""


def flatten(options: Options, hidden: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names, in which the keys ``hidden`` are left out."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        name = prefix if key in hidden else f"{prefix}.{key}" if prefix else str(key)
        flat.update(flatten(value, hidden, name) if isinstance(value, Mapping) else {name: value})
    return flat


def meaning(options: Options) -> dict[str, Any]:
    """Nested options by their dotted names, without those that do not change a result."""
    return {name: value for name, value in flatten(options).items() if not name.startswith(EXECUTION)}


def read_mapping(path: str | Path, argument: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FedlogeError: If the file cannot be read, is not YAML or holds something else; it names the ``argument``.
    """
    content = _read_yaml(path, argument, yaml.safe_load)
    if not isinstance(content, dict):
        raise FedlogeError(f"{argument}={str(path)!r} holds no mapping. Write lines of the form key: value.")
    return content


def _read_yaml(path: str | Path, argument: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FedlogeError(f"{argument}={str(path)!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FedlogeError(f"{argument}={str(path)!r} is not a text in UTF-8: {error.reason}.") from error
    except yaml.YAMLError as error:
        raise FedlogeError(f"{argument}={str(path)!r} is not YAML: {' '.join(str(error).split())}.") from error


def merged(first: Options, *others: Options) -> dict[str, Any]:
    """Merge nested options, later over earlier; a different ``class_path`` drops the options of the earlier class."""
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
        raise FedlogeError(f"{override!r} is not an option. Write --key=value, for example --trainer.rounds=2.")
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
        raise FedlogeError(f"{override!r} cannot be set: {match[2]!r} is not YAML.") from error


def set_option(options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option as the command line would: a text is read as YAML, so "null" is None."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
    override_value(options, f"--{name}={text.strip()}")


HARMLESS = (
    *EXECUTION,
    *("trainer.rounds", "trainer.on_client_failure", "trainer.min_clients"),
    *("data.partition_file", "data.source.init_args.root", "seed_everything"),
)
"""Options that may differ when a run is resumed, as its result keeps its meaning; a hash checks the partition."""

SECTIONS = ("trainer", "model", "data", "report", "seed_everything")
"""Top-level keys of a configuration of ``fedloge fit``."""

EXTRA = ("config", "help", "print_config", "print_shtab")
"""What jsonargparse accepts besides."""


def refuse_lost_overrides(args: Sequence[str]) -> None:
    """Refuse values before --config, which the file's would silently replace."""
    position = next((i for i, arg in enumerate(args) if arg == "--config" or arg.startswith("--config=")), 0)
    for arg in args[:position]:
        if arg.startswith("--"):
            raise FedlogeError(f"{arg} stands before --config, whose values would replace it. Put it after --config.")


def check_options(args: Sequence[str], others: Iterable[str] = ()) -> None:
    """Check what can be checked of options of ``fedloge fit`` without torch: top-level keys, and files of --config.

    Args:
        args: The options.
        others: Further options of the same command, which a mistyped name may stand for.

    Raises:
        FedlogeError: If a key is unknown, or a file cannot be read or is not YAML.
    """
    refuse_lost_overrides(args)
    if args and not args[0].startswith("-"):
        raise FedlogeError(f"{args[0]!r} is not an option. A configuration is given as --config={args[0]}.")
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-c"):
            _check_config(value if equals else "".join(args[position + 1 : position + 2]))
        elif name.startswith("--"):
            _check_key(name[2:], "", (*SECTIONS, *EXTRA, *others))


def _check_config(path: str) -> None:
    if not path or "://" in path or re.search(r":\s", path):  # jsonargparse also reads addresses, and YAML in place
        return
    node = _read_yaml(path, "--config", yaml.compose)
    if not isinstance(node, yaml.MappingNode):
        raise FedlogeError(f"--config={path!r} holds no mapping. Write sections such as trainer, model and data.")
    for key, _ in node.value:
        _check_key(str(key.value), f" in --config={path!r}", (*SECTIONS, "config", "<<"))


def _check_key(name: str, where: str, valid: Sequence[str]) -> None:
    key = re.split(r"[.+]", name)[0]
    if key not in valid:
        section = next((option for option, *_ in COMMON if option.rpartition(".")[2] == key), None)
        hint = f" Did you mean '{section}'?" if section else did_you_mean(key, valid)
        hint = hint or f" The sections are {', '.join(SECTIONS)}."
        raise FedlogeError(f"there is no option {name!r}{where}.{hint}")
