"""Federated long-tailed learning on PyTorch Lightning: one generic and K personal models."""

from __future__ import annotations

import importlib
from importlib import metadata
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
    "Run": "fedloge.runs.run",
    "load_run": "fedloge.runs.run",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``fedloge --help`` does not wait for torch."""
    if name == "__version__":
        return metadata.version("fedloge")
    if name == "collapse":
        return importlib.import_module("fedloge.collapse")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedloge' has no attribute {name!r}")
