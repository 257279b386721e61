"""Diagnostics of trained models."""

from __future__ import annotations

from fedloge.system.imports import on_first_use

__all__ = ["analyze_run", "analyze_runs"]

__getattr__, __dir__ = on_first_use(__name__, dict.fromkeys(__all__, "fedloge.analysis.analyze"))
