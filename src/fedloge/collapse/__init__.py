"""Neural collapse: metrics, closed-form theory, a Lightning callback."""

from __future__ import annotations

from fedloge.system.imports import on_first_use

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

# `fedloge collapse --help` does not wait for torch.
__getattr__, __dir__ = on_first_use(__name__, _HOME)
