"""Run folders: what a run writes, and how it is read again."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Run", "load_run", "realign_run", "run_config", "test_run"]


def __getattr__(name: str) -> Any:
    """Import on first use: the trainer writes run folders, and a run that is read again needs the trainer."""
    if name in __all__:
        return getattr(importlib.import_module("fedloge.runs.run"), name)
    raise AttributeError(f"module 'fedloge.runs' has no attribute {name!r}")
