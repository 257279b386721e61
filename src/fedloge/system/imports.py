"""Imports that take seconds, and what is known of packages without importing them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are imported on first use (PEP 562).

    Args:
        package: Name of the package.
        homes: Module of each name; a submodule is its own home.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(homes[name])
        return module if homes[name] == f"{package}.{name}" else getattr(module, name)

    return attribute, lambda: sorted(homes)


def installed_version(package: str) -> str | None:
    """Version of an installed package; None for one without metadata, such as a checkout on ``PYTHONPATH``."""
    from importlib import metadata  # as slow to import as the rest of this package

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def loading(quiet: bool = False) -> Iterator[None]:
    """Show a line on a terminal while torch and what needs it are imported, unless they are there or it is quiet."""
    if "torch" in sys.modules:
        yield
        return
    shown = sys.stderr.isatty() and not quiet
    if shown:
        print("loading torch ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
