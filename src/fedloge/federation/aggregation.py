"""Averages of client updates, computed in place while they arrive: memory is constant in the number of clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedloge.federation.state import ClientStore, ClientUpdate, Tensors


def weighted_mean(updates: Iterable[ClientUpdate], *, uniform: bool = False) -> Tensors:
    """Example-weighted mean of the updates' entries, w = Σ_k n_k w_k / Σ_k n_k (McMahan et al., 2017).

    Parameters and floating buffers (BatchNorm statistics) are averaged; integer buffers such as
    ``num_batches_tracked`` take the maximum and stay integers. The mean is a running one,
    ``m ← m + (n_k / N_k)(w_k - m)`` with N_k the number of examples so far. Equal updates therefore leave it unchanged
    to the bit, and only updates that arrived count.

    Args:
        updates: Updates in client order, so that the result does not depend on which client finished first.
        uniform: Give every client the same weight instead of n_k.

    Raises:
        ValueError: If there is no update, or their weights sum to zero.
    """
    mean: dict[str, Tensor] = {}
    total = 0
    for update in updates:
        weight = 1 if uniform else update.num_examples
        if weight <= 0:
            continue
        total += weight
        if mean:
            _move_towards(mean, update.tensors, weight / total)
        else:
            mean = {name: tensor.clone() for name, tensor in update.tensors.items()}
    if not mean:
        raise ValueError("nothing to average: no client update with at least one example")
    return mean


def average_personal(clients: ClientStore, num_examples: Sequence[int], *, uniform: bool = False) -> Tensors:
    """Weighted mean of personal entries, for testing only: a server never sees these entries.

    Args:
        clients: Personal states of all clients. Those that have never trained do not count, unless that is true of all.
        num_examples: n_k of every client.
        uniform: Give every client the same weight instead of n_k.
    """
    trained = sorted(clients.trained()) or range(len(clients))
    updates = (ClientUpdate(client, clients[client], num_examples[client], ()) for client in trained)
    return weighted_mean(updates, uniform=uniform)


def _move_towards(mean: dict[str, Tensor], tensors: Tensors, fraction: float) -> None:
    floating = [name for name, tensor in mean.items() if tensor.is_floating_point()]
    if floating:
        torch._foreach_lerp_([mean[name] for name in floating], [tensors[name] for name in floating], fraction)
    for name in mean.keys() - set(floating):
        mean[name] = torch.maximum(mean[name], tensors[name])
