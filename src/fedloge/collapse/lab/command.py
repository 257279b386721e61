"""``fedloge collapse VERB``. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from fedloge.errors import FedlogeError, one_line
from fedloge.options import refuse_lost_overrides
from fedloge.system.imports import loading

USAGE = """usage: fedloge collapse VERB [--config FILE] [--OPTION=VALUE ...]

verbs:
  deep-linear   deep linear networks trained to collapse, against the closed form
  language      a small causal language model over widths and steps; collapse against validation loss
  huggingface   the same measurement on a causal language model of yours (--model=FOLDER --text=FILE)
  norms         how norms follow class sizes: closed form, and the head of a run (--run=RUN)

`fedloge collapse VERB --help` lists the options of a verb
"""

VERBS = {
    "deep-linear": ("deep_linear", "DeepLinear"),
    "language": ("language", "Language"),
    "huggingface": ("huggingface", "HuggingFace"),
    "norms": ("norms", "Norms"),
}
"""Module of each verb and the class of its options; the module's ``run`` takes them."""


def main(args: Sequence[str]) -> int:
    """Run a verb of ``fedloge collapse``.

    Raises:
        FedlogeError: For an unknown verb or a bad option.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    verb = args[0]
    if verb not in VERBS:
        raise FedlogeError(f"no verb 'collapse {verb}'. Choose one of {', '.join(VERBS)}.")
    with loading():
        module = importlib.import_module(f"fedloge.collapse.lab.{VERBS[verb][0]}")
    module.run(parse(getattr(module, VERBS[verb][1]), args[1:], f"fedloge collapse {verb}"))
    return 0


def parse(options: type[Any], args: Sequence[str], prog: str) -> Any:
    """An object of a dataclass from ``--config FILE`` and overrides after it.

    Raises:
        FedlogeError: In one line, with the closest valid name where an option is unknown.
    """
    import dataclasses

    from jsonargparse import ArgumentError, ArgumentParser

    refuse_lost_overrides(args)
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with options.")
    parser.add_class_arguments(options, sub_configs=False)
    try:
        config = parser.parse_args(list(args))
    except ArgumentError as error:
        raise FedlogeError(one_line(str(error), [item.name for item in dataclasses.fields(options)])) from error
    values = config.as_dict()
    values.pop("config", None)
    return options(**values)
