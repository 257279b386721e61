"""Nested options as in YAML: read, check, flatten, merge and override them, and know which never change a result."""

from __future__ import annotations

import json
import math
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


class Loader(yaml.SafeLoader):
    """YAML as jsonargparse reads it, where 1e-4 is a number; no key may stand twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, refused if it has a key twice."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.composer.ComposerError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return node


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*[eE][-+]?\d+$"), [*"-+0123456789"])


def dump(value: Any, **options: Any) -> str:
    """A value as YAML."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, **options)
    return text


def read_mapping(path: str | Path, argument: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FedlogeError: If the file cannot be read, is not YAML or holds something else; it names the ``argument``.
    """
    content = _read_yaml(path, argument, lambda text: yaml.load(text, Loader))
    if not isinstance(content, dict):
        raise FedlogeError(f"{argument}={str(path)!r} holds no mapping. Write lines of the form key: value.")
    try:
        json.dumps({"content": [content]}, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise FedlogeError(f"{argument}={str(path)!r} holds a part that contains itself.") from error
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


FLAGS = ("--help", "--print_config", "--quiet", "--resume")
"""Options of ``fedloge fit`` that need no value."""


def joined(args: Sequence[str], flags: Iterable[str] = ()) -> list[str]:
    """Arguments in which ``--key value`` is one word, ``--key=value``, except after ``flags``."""
    words, result = list(args), []
    while words:
        word = words.pop(0)
        lacks_value = word.startswith("--") and "=" not in word and word not in flags
        if lacks_value and words and not words[0].startswith("--"):
            word = f"{word}={words.pop(0)}"
        result.append(word)
    return result


def arguments(options: Options, prefix: str = "") -> list[str]:
    """Options as arguments of ``fedloge fit``. A text stands as it is, so that "null" is None."""
    return [f"--{prefix}{name}={v if isinstance(v, str) else in_place(v)}" for name, v in options.items()]


def in_place(value: Any) -> str:
    """A value as YAML on one line."""
    return dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def option_name(word: str) -> str:
    """The name in ``--name=value``, in its shortest spelling.

    Raises:
        FedlogeError: If the word has another form.
    """
    match = re.match(r"--([^=+]+)\+?=", word)
    if not match:
        raise FedlogeError(f"{word!r} is not an option. Write --key=value, for example --trainer.rounds=2.")
    return match[1].replace(".init_args", "")


def set_own(content: dict[str, Any], args: Sequence[str], own: Sequence[str]) -> list[str]:
    """Set the keys ``own`` of a file's content, ``--seeds=0,1`` for example; returns the options of ``fedloge fit``.

    Raises:
        FedlogeError: If an argument is neither, or changes where runs are written.
    """
    options = []
    for word in joined(args):
        name = option_name(word)
        if name in NO_EFFECT:
            raise FedlogeError(f"{word!r} has no effect here: {NO_EFFECT[name]}.")
        check_key(name, "", (*own, *SECTIONS))
        if name.partition(".")[0] in own:
            _put(content, name, word)
        else:
            options.append(word)
    return options


def _put(place: dict[str, Any], name: str, word: str) -> None:
    """Set an entry by its dotted name; keys that exist may have dots themselves."""
    known = [key for key in map(str, place) if f"{name}.".startswith(f"{key}.")]
    key = max(known, key=len, default=name.partition(".")[0])
    rest = name[len(key) + 1 :]
    if rest:
        if place.get(key) is None:
            place[key] = {}
        if not isinstance(place[key], dict):
            raise FedlogeError(f"{word!r} cannot be set: {key} is not a section.")
        _put(place[key], rest, word)
        return
    place[key] = value_of(word)


def value_of(word: str) -> Any:
    """The value in ``--name=value``, which is YAML.

    Raises:
        FedlogeError: If it is not.
    """
    text = word.partition("=")[2]
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise FedlogeError(f"{word!r} cannot be set: {text!r} is not YAML.") from error


NO_EFFECT = {
    "trainer.run_dir": "runs are written below --output_dir",
    "report": "`fedloge report RUN` writes the report of a run",
}
"""Options of ``fedloge fit`` that many runs cannot share, and why."""

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
    position = next((i for i, arg in enumerate(args) if re.match("(-c|--config)(=|$)", arg)), 0)
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
            check_key(name[2:], "", (*SECTIONS, *EXTRA, *others))


def _check_config(path: str) -> None:
    if not path or "://" in path or re.search(r":\s", path):  # jsonargparse also reads addresses, and YAML in place
        return
    node = _read_yaml(path, "--config", lambda text: yaml.compose(text, Loader))
    if not isinstance(node, yaml.MappingNode):
        raise FedlogeError(f"--config={path!r} holds no mapping. Write sections such as trainer, model and data.")
    for key, _ in node.value:
        check_key(str(key.value), f" in --config={path!r}", (*SECTIONS, "config", "<<"))


def check_key(name: str, where: str, valid: Sequence[str]) -> None:
    """Require the first part of an option's dotted name to be valid.

    Raises:
        FedlogeError: If it is not; it names the closest valid one.
    """
    key = re.split(r"[.+]", name)[0]
    if key not in valid:
        section = next((option for option, *_ in COMMON if option.rpartition(".")[2] == key), None)
        hint = f" Did you mean '{section}'?" if section else did_you_mean(key, valid)
        hint = hint or f" The sections are {', '.join(SECTIONS)}."
        raise FedlogeError(f"there is no option {name!r}{where}.{hint}")
