"""Checks of arguments that constructors and functions share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedloge.errors import ConfigError, DataError, few


def check_choice(argument: str, value: Any, choices: Sequence[Any]) -> None:
    """Require one of the choices.

    Raises:
        ConfigError: If the value is another; it names the choices.
    """
    if value not in choices:
        raise ConfigError(argument, value, "is unknown", f"Choose one of {', '.join(map(str, choices))}.")


def check_least(argument: str, value: int | None, least: int) -> None:
    """Require value ≥ least; None passes.

    Raises:
        ConfigError: If the value is smaller; it names the least.
    """
    if value is not None and value < least:
        raise ConfigError(argument, value, f"must be at least {least}", "Choose a larger whole number.")


MAX_THREADS = 1024
"""Upper bound: OpenMP ends the process, without a Python error, where it cannot start the requested threads."""


def check_threads(argument: str, value: int) -> None:
    """Require a number of threads that torch accepts.

    Raises:
        ConfigError: If the number is not between 1 and 1024.
    """
    if not 1 <= value <= MAX_THREADS:
        remedy = "More than one per core is of no use."
        raise ConfigError(argument, value, f"must lie between 1 and {MAX_THREADS}", remedy)


def check_positive(argument: str, value: float, remedy: str) -> None:
    """Require 0 < value < ∞.

    Raises:
        ConfigError: If the value lies outside; it ends with the remedy.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(argument, value, "must be positive and finite", remedy)


def check_not_negative(argument: str, value: float | None, remedy: str) -> None:
    """Require value ≥ 0; None passes.

    Raises:
        ConfigError: If the value is negative; it ends with the remedy.
    """
    if value is not None and value < 0:
        raise ConfigError(argument, value, "must not be negative", remedy)


def check_share(argument: str, value: float) -> None:
    """Require 0 ≤ value ≤ 1.

    Raises:
        ConfigError: If the value lies outside; it names the interval.
    """
    if not 0 <= value <= 1:
        raise ConfigError(argument, value, "must lie in [0, 1]", "It is a share.")


def check_unused(argument: str, value: Any, default: Any, beside: str) -> None:
    """Require the default of an option that has no effect beside another.

    Raises:
        ConfigError: If it has another value; it names the other option.
    """
    if value != default:
        raise ConfigError(argument, value, f"has no effect with {beside}", "Leave one of them out.")


def check_paths(paths: Iterable[str | Path]) -> None:
    """Require files, folders or links that exist.

    Raises:
        DataError: If some do not; names the first five.
    """
    missing = [repr(str(path)) for path in paths if not os.path.lexists(path)]
    if missing:
        raise DataError(f"no file or folder {few(missing)}.")


def check_text(names: Iterable[str], where: str) -> None:
    """Require names in UTF-8, which tables and pages can show.

    Raises:
        DataError: If some are not; names the first five as bytes.
    """
    broken = [os.fsencode(name) for name in names if not is_text(name)]
    if broken:
        raise DataError(f"{len(broken)} name(s) {where} are not UTF-8: {few(broken)}. Rename them.")


def is_text(name: str) -> bool:
    """Whether the name of a file is UTF-8; Python puts lone surrogates in the place of other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
