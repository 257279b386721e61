"""Federated long-tailed learning on PyTorch Lightning: one generic and K personal models."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

_HOME = {
    "FederatedTrainer": "fedloge.trainer",
    "FederatedCallback": "fedloge.callbacks",
    "FederatedDataModule": "fedloge.data",
    "Method": "fedloge.methods",
    "CReFF": "fedloge.methods",
    "Ditto": "fedloge.methods",
    "FedAvg": "fedloge.methods",
    "FedAvgFT": "fedloge.methods",
    "FedBABU": "fedloge.methods",
    "FedBN": "fedloge.methods",
    "FedETF": "fedloge.methods",
    "FedLoGe": "fedloge.methods",
    "FedNH": "fedloge.methods",
    "FedPer": "fedloge.methods",
    "FedProx": "fedloge.methods",
    "FedRep": "fedloge.methods",
    "FedROD": "fedloge.methods",
    "FedYoYo": "fedloge.methods",
    "LogitAdjustment": "fedloge.methods",
    "RatioLoss": "fedloge.methods",
    "Backbone": "fedloge.models",
    "Run": "fedloge.runs",
    "load_run": "fedloge.runs",
}
__all__ = list(_HOME)

_MOVED = {
    "fedloge.analysis.collapse.callback": "fedloge.collapse.callback",
    "fedloge.progress": "fedloge.report.progress",
}
"""Modules of version 0.1.0 whose classes may stand in a saved ``config.yaml``, and where these classes are now."""


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``fedloge --help`` does not wait for torch."""
    if name == "__version__":
        return metadata.version("fedloge")
    if name == "collapse":
        return importlib.import_module("fedloge.collapse")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedloge' has no attribute {name!r}")


def _alias(old: str, new: str) -> None:
    """Let a module of the old name hand out what the new one has, which is imported on first use."""

    def attribute(name: str) -> Any:
        if name.startswith("__"):  # inspect asks every module for its __file__
            raise AttributeError(name)
        return getattr(importlib.import_module(new), name)

    module = ModuleType(old, f"Alias of {new}.")
    module.__getattr__ = attribute  # type: ignore[method-assign]
    sys.modules[old] = module


for _old, _new in _MOVED.items():
    _alias(_old, _new)
