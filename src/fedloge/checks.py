"""Checks of arguments that constructors and functions share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedloge.errors import ConfigError


def check_choice(argument: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse what is not one of the choices.

    Raises:
        ConfigError: Naming them.
    """
    if value not in choices:
        raise ConfigError(argument, value, "is unknown", f"Choose one of {', '.join(map(str, choices))}.")


def check_least(argument: str, value: int | None, least: int) -> None:
    """Refuse a number that is too small; None, where it is allowed, stands for another option.

    Raises:
        ConfigError: Naming the least.
    """
    if value is not None and value < least:
        raise ConfigError(argument, value, f"must be at least {least}", "Choose a larger whole number.")


MAX_THREADS = 1024
"""OpenMP ends the process, without a word from Python, where it cannot have the threads that it is asked for."""


def check_threads(argument: str, value: int) -> None:
    """Refuse a number of threads that torch cannot be given.

    Raises:
        ConfigError: If it is not between 1 and 1024.
    """
    if not 1 <= value <= MAX_THREADS:
        remedy = "One per core at most is of use."
        raise ConfigError(argument, value, f"must lie between 1 and {MAX_THREADS}", remedy)


def check_positive(argument: str, value: float, remedy: str) -> None:
    """Refuse what is not a positive, finite number.

    Raises:
        ConfigError: With the remedy.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(argument, value, "must be positive and finite", remedy)


def check_not_negative(argument: str, value: float | None, remedy: str) -> None:
    """Refuse a negative number; None, where it is allowed, stands for another option.

    Raises:
        ConfigError: With the remedy.
    """
    if value is not None and value < 0:
        raise ConfigError(argument, value, "must not be negative", remedy)


def check_share(argument: str, value: float) -> None:
    """Refuse what is not a fraction between 0 and 1.

    Raises:
        ConfigError: Naming the interval.
    """
    if not 0 <= value <= 1:
        raise ConfigError(argument, value, "must lie in [0, 1]", "It is a share.")
