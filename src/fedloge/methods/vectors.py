"""Parameters as one vector, for methods that keep something of the size of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedloge.methods.base import Method


def shared_parameters(method: Method) -> dict[str, Tensor]:
    """The parameters that travel between server and clients, by name."""
    return {name: parameter for name, parameter in method.named_parameters() if method.is_shared(name)}


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All entries of some tensors in one vector, without a gradient."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of a vector in the shapes of some tensors; views of it."""
    parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def linear_term(vector: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """A scalar whose gradient with respect to the parameters is ``vector``, and whose value is zero."""
    parts = unflatten(vector, parameters)
    term = torch.stack([(parts[name] * parameter).sum() for name, parameter in parameters.items()]).sum()
    return term - term.detach()
