"""Errors a user can act on: each names what is wrong, where it was looked for, and what to change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any


class FedlogeError(Exception):
    """Base of every error that fedloge raises on purpose; the command line prints it as one line.

    Not a ValueError: jsonargparse reports a ValueError raised by a class as a mismatch of types.
    """


class ConfigError(FedlogeError):
    """An argument has a value that cannot work.

    Args:
        argument: Name as the user writes it, for example ``model.beta``.
        value: The given value.
        problem: What is wrong with it, for example ``must lie in [0, 1)``.
        remedy: What to do about it.
    """

    def __init__(self, argument: str, value: Any, problem: str, remedy: str) -> None:
        super().__init__(f"{argument}={value!r} {problem}. {remedy}".rstrip())
        self.argument, self.value, self.problem, self.remedy = argument, value, problem, remedy


class DataError(FedlogeError):
    """The data are missing, unreadable or do not fit together."""


class RunError(FedlogeError):
    """A run folder cannot be written, or a folder is not a run."""


def one_line(message: str, names: Sequence[str], classes: Sequence[str] = ()) -> str:
    """A message of jsonargparse in one line: what was wrong, and the closest valid name.

    Args:
        message: The message.
        names: Valid names of options.
        classes: Names of classes that need no module.
    """
    message, whole = _relevant_complaint(message), message
    unknown = re.search(r"(?:[Oo]ption|[Kk]ey) '([\w.]+)' is not (?:accepted|expected)", message)
    unknown = unknown or re.search(r"does not accept (?:option|nested key) '([\w.]+)'", message)
    unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([\w.]+)", message)
    if unknown:
        owner = re.findall(r"given class_path '([\w.]+)'", message)
        where = f" in {owner[-1]}" if owner else ""
        return f"there is no option {unknown[1]!r}{where}.{did_you_mean(unknown[1].rpartition('.')[2], names)}"
    keys = ".".join(re.findall(r'Parser key "([\w.]+)"', whole))
    unimportable = re.search(
        r"Problem with given class_path '([\w.]+)':\s*(No module named .*|Not a valid .*)$", message
    )
    if unimportable:
        return f"{keys}={unimportable[1]} cannot be imported: {unimportable[2].strip()}. Write module.Class."
    other_kind = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message)
    if other_kind:
        return f"{keys}={other_kind[1]} is not a subclass of {other_kind[2]}."
    missing = re.search(r"Expected a dot import path string: (\S+)", whole)
    if missing:
        literal = re.search(r"Expected a typing\.Literal\[(.+)\]", whole)
        choices = literal[1].replace("'", "").split(", ") if literal else []
        if missing[1] in choices:
            others = ", ".join(choice for choice in choices if choice != missing[1])
            return f"{keys}={missing[1]} has no options of its own. Name one of {others}, before its options."
        listed = f" Choose one of {', '.join(choices)}." if choices else ""
        closest = did_you_mean(missing[1], classes)
        return f"{keys}: there is no class {missing[1]!r}.{closest}{listed} Write a class of your own as module.Class."
    mismatch = re.search(r"Expected an? (.+)\. Got value: (.*)", message)
    if mismatch:
        return f"{keys}={mismatch[2]} is not of the expected type, {mismatch[1].replace('typing.', '')}."
    problem = re.sub(r"\s*\n\s*", " ", re.split(r'Parser key "[\w.]+":', message)[-1]).strip()
    return f"{keys}: {problem}" if keys else problem


def _relevant_complaint(message: str) -> str:
    """For `model`, a Method or None, jsonargparse has a complaint about each type; return the one about the Method."""
    if "Does not validate against any of the Union" not in message or "Errors:" not in message:
        return message
    complaints = re.split(r"\n\s*Given value type:", message.partition("Errors:")[2])[0]
    relevant = [part for part in re.split(r"\n\s*- ", complaints) if part.strip() and "'NoneType'" not in part]
    if relevant and re.search(r'Parser key "[\w.]+":\s*$', relevant[0]):  # its own complaints follow as a list
        return relevant[0] + next((part for part in relevant[1:] if not part.startswith("Expected a path")), "")
    return relevant[0] if relevant else message


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A sentence that names the closest valid name, or an empty text."""
    found = difflib.get_close_matches(name, [other for other in valid if other != name], n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
