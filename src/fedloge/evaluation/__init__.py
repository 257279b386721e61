"""Tests of the generic and the personal models."""

from fedloge.evaluation.evaluator import ClientScore, Evaluation, Evaluator
from fedloge.evaluation.shots import shots

__all__ = ["ClientScore", "Evaluation", "Evaluator", "shots"]
