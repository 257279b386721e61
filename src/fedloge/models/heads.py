"""Linear heads."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

HeadInit = Literal["xavier", "gaussian", "uniform", "orthogonal", "kaiming"]


class FixedLinear(nn.Module):
    """A linear head that nothing trains: weight and bias are buffers, so no optimiser can ever see them.

    Args:
        in_features: Feature size d.
        out_features: Number of classes C.
        bias: Whether there is a bias (zero until it is set).
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, C] of features [n, d]."""
        return functional.linear(features, self.weight, self.bias)


def linear_init(num_classes: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight [C, d] and bias [C] drawn as ``torch.nn.Linear`` draws them, U(±1/√d), from ``generator``."""
    bound = dim**-0.5
    weight = torch.empty(num_classes, dim).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(num_classes).uniform_(-bound, bound, generator=generator)


def random_head(num_classes: int, dim: int, kind: HeadInit, generator: torch.Generator) -> Tensor:
    """Weight [C, d] of a head drawn by a usual initialisation, with the arguments of the released code.

    ``xavier`` and ``kaiming`` are the uniform variants, the latter with a = √5, which is U(±1/√d); ``gaussian`` is
    N(0, 0.5²), ``uniform`` is U(0, 1), and ``orthogonal`` has orthonormal rows (or columns, where d < C).
    """
    inits: dict[HeadInit, Any] = {
        "xavier": nn.init.xavier_uniform_,
        "gaussian": partial(nn.init.normal_, std=0.5),
        "uniform": nn.init.uniform_,
        "orthogonal": nn.init.orthogonal_,
        "kaiming": partial(nn.init.kaiming_uniform_, a=5**0.5),
    }
    weight: Tensor = inits[kind](torch.empty(num_classes, dim), generator=generator)
    return weight
