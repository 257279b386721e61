"""Errors a user can act on: each names what was wrong, where it was looked for, and what to change."""

from __future__ import annotations

from typing import Any


class FedlogeError(Exception):
    """Base of every error that fedloge raises on purpose; the command line prints it as one line.

    Not a ValueError: jsonargparse takes those, when a class raises them, for a mismatch of types.
    """


class ConfigError(FedlogeError):
    """An argument has a value that cannot work.

    Args:
        argument: Name as the user writes it, for example ``model.beta``.
        value: The value that was given.
        problem: What is wrong with it, for example ``must lie in [0, 1)``.
        remedy: What to do instead.
    """

    def __init__(self, argument: str, value: Any, problem: str, remedy: str) -> None:
        super().__init__(f"{argument}={value!r} {problem}. {remedy}".rstrip())
        self.argument, self.value, self.problem, self.remedy = argument, value, problem, remedy


class DataError(FedlogeError):
    """The data are missing, unreadable or do not fit together."""


class RunError(FedlogeError):
    """A run folder cannot be written, or what was given is not a run."""
