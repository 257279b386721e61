"""Torch's global generators, one state per client."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from fedloge.system.devices import device_module, is_accelerator


class RandomState(contextlib.AbstractContextManager["RandomState"]):
    """Torch's global generators as a client sees them: each block continues where the last one ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = self._outer = random_state(device)

    def seed(self, seed: int) -> None:
        """Seed the generators."""
        before = random_state(self._device)
        torch.manual_seed(seed)
        self._own = random_state(self._device)
        self._set(before)

    def __enter__(self) -> RandomState:
        self._outer = random_state(self._device)
        self._set(self._own)
        return self

    def __exit__(self, *error: Any) -> None:
        self._own = random_state(self._device)
        self._set(self._outer)

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            device_module(self._device).set_rng_state(state, self._device)


def random_state(device: torch.device) -> list[Tensor]:
    """State of the global generator of the CPU, and of that of an accelerator."""
    states = [torch.get_rng_state()]
    return [*states, device_module(device).get_rng_state(device)] if is_accelerator(device) else states
