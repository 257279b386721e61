"""Neural collapse: metrics, closed-form theory, a Lightning callback."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ClassMeanMetric": "fedloge.collapse.streaming",
    "ClassMeans": "fedloge.collapse.streaming",
    "CollapseCallback": "fedloge.collapse.callback",
    "CrossEntropyETF": "fedloge.collapse.lab.theory",
    "Frame": "fedloge.collapse.lab.theory",
    "NearestMeanMetric": "fedloge.collapse.streaming",
    "SpreadMetric": "fedloge.collapse.streaming",
    "cross_entropy_etf": "fedloge.collapse.lab.theory",
    "etf_floor": "fedloge.collapse.metrics",
    "gnc2_of_etf": "fedloge.collapse.metrics",
    "gnc2_of_random": "fedloge.collapse.metrics",
    "measure": "fedloge.collapse.measurement",
    "measure_batches": "fedloge.collapse.measurement",
    "measure_module": "fedloge.collapse.callback",
    "norm_exponent": "fedloge.collapse.lab.theory",
    "orthogonal_frame": "fedloge.collapse.lab.theory",
    "pruning_curve": "fedloge.collapse.pruning",
    "report": "fedloge.collapse.metrics",
    "seli": "fedloge.collapse.lab.theory",
    "simplex_frame": "fedloge.collapse.lab.theory",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``fedloge collapse --help`` does not wait for torch."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedloge.collapse' has no attribute {name!r}")
