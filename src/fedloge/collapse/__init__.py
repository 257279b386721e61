"""Neural collapse: metrics, closed-form theory, a Lightning callback."""

from fedloge.collapse.callback import CollapseCallback, measure_module
from fedloge.collapse.lab.theory import (
    CrossEntropyETF,
    Frame,
    cross_entropy_etf,
    norm_exponent,
    orthogonal_frame,
    seli,
    simplex_frame,
)
from fedloge.collapse.measure import measure, measure_batches
from fedloge.collapse.metrics import etf_floor, gnc2_of_etf, gnc2_of_random, report
from fedloge.collapse.pruning import pruning_curve
from fedloge.collapse.streaming import ClassMeanMetric, ClassMeans, NearestMeanMetric, SpreadMetric

__all__ = [
    "ClassMeanMetric",
    "ClassMeans",
    "CollapseCallback",
    "CrossEntropyETF",
    "Frame",
    "NearestMeanMetric",
    "SpreadMetric",
    "cross_entropy_etf",
    "etf_floor",
    "gnc2_of_etf",
    "gnc2_of_random",
    "measure",
    "measure_batches",
    "measure_module",
    "norm_exponent",
    "orthogonal_frame",
    "pruning_curve",
    "report",
    "seli",
    "simplex_frame",
]
