"""Diagnostics of trained models."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["analyze_run", "analyze_runs"]


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in __all__:
        return getattr(importlib.import_module("fedloge.analysis.analyze"), name)
    raise AttributeError(f"module 'fedloge.analysis' has no attribute {name!r}")
