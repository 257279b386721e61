"""Run folders: what a run writes, and how it is read again."""

from __future__ import annotations

from fedloge.system.imports import on_first_use

__all__ = ["Run", "load_run", "realign_run", "test_run"]

# The trainer writes run folders, and reading a run again needs the trainer.
__getattr__, __dir__ = on_first_use(__name__, dict.fromkeys(__all__, "fedloge.runs.run"))
