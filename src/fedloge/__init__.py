"""Federated long-tailed learning on PyTorch Lightning: one generic and K personal models."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedloge.system.imports import installed_version, on_first_use

if TYPE_CHECKING:
    from fedloge import collapse as collapse
    from fedloge.callbacks import FederatedCallback
    from fedloge.data import FederatedDataModule
    from fedloge.methods import (
        APFL,
        CCVR,
        MOON,
        SCAFFOLD,
        CReFF,
        Ditto,
        FedAdam,
        FedALA,
        FedAvg,
        FedAvgFT,
        FedAvgM,
        FedBABU,
        FedBN,
        FedDyn,
        FedETF,
        FedGraB,
        FedLC,
        FedLF,
        FedLoGe,
        FedNH,
        FedNPC,
        FedNTD,
        FedPAC,
        FedPer,
        FedProto,
        FedProx,
        FedReLa,
        FedRep,
        FedROD,
        FedYogi,
        FedYoYo,
        LocalOnly,
        LogitAdjustment,
        Method,
        RatioLoss,
        pFedMe,
    )
    from fedloge.models import Backbone
    from fedloge.runs.run import Run, load_run
    from fedloge.trainer import FederatedTrainer

    __version__: str | None

__all__ = [
    "APFL",
    "CCVR",
    "MOON",
    "SCAFFOLD",
    "Backbone",
    "CReFF",
    "Ditto",
    "FedALA",
    "FedAdam",
    "FedAvg",
    "FedAvgFT",
    "FedAvgM",
    "FedBABU",
    "FedBN",
    "FedDyn",
    "FedETF",
    "FedGraB",
    "FedLC",
    "FedLF",
    "FedLoGe",
    "FedNH",
    "FedNPC",
    "FedNTD",
    "FedPAC",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedROD",
    "FedReLa",
    "FedRep",
    "FedYoYo",
    "FedYogi",
    "FederatedCallback",
    "FederatedDataModule",
    "FederatedTrainer",
    "LocalOnly",
    "LogitAdjustment",
    "Method",
    "RatioLoss",
    "Run",
    "load_run",
    "pFedMe",
]

_public, __dir__ = on_first_use(
    __name__,
    dict.fromkeys(__all__, "fedloge.methods")
    | {
        "Backbone": "fedloge.models",
        "FederatedCallback": "fedloge.callbacks",
        "FederatedDataModule": "fedloge.data",
        "FederatedTrainer": "fedloge.trainer",
        "Run": "fedloge.runs",
        "collapse": "fedloge.collapse",
        "load_run": "fedloge.runs",
    },
)

_MOVED = {
    "fedloge.analysis.collapse.callback": "fedloge.collapse.callback",
    "fedloge.progress": "fedloge.report.progress",
}
"""Modules of version 0.1.0 whose classes may stand in a saved ``config.yaml``, and their new names."""


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``fedloge --help`` does not wait for torch."""
    return installed_version("fedloge") if name == "__version__" else _public(name)


def _alias(old: str, new: str) -> None:
    """Register a module of the old name whose attributes are those of the new one, imported on first use."""

    def attribute(name: str) -> Any:
        if name.startswith("__"):  # inspect asks every module for its __file__
            raise AttributeError(name)
        return getattr(importlib.import_module(new), name)

    module = ModuleType(old, f"Alias of {new}.")
    module.__getattr__ = attribute  # type: ignore[method-assign]
    sys.modules[old] = module


for _old, _new in _MOVED.items():
    _alias(_old, _new)
