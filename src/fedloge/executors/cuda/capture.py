"""Test whether a training step can be captured in a CUDA graph, by watching one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedloge.methods.base import Client, Method

aten: Any = torch.ops.aten
READS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a step of a method for operations that a graph would freeze or cannot contain.

    A graph repeats the work on the device and nothing else. So a step must not read values back (a branch on a
    tensor, ``item``, a boolean mask), make tensors of Python values, draw from torch's global generators, read
    ``self.client``, or change attributes in Python; :attr:`obstacle` names the first of these that it does.

    Args:
        method: Method whose step is watched. The first step may fill caches: watch the second.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.obstacle: str | None = None
        self._method, self._client = method, method.client

    def __enter__(self) -> Watch:
        self._random, self._attributes = _random_state(self._method.device), _attributes(self._method)
        self._method.client = cast(Client, _Watched(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._method.client = self._client
        if not all(map(torch.equal, self._random, _random_state(self._method.device))):
            self.note("draws random numbers")
        for name, value in _attributes(self._method).items():
            if self._attributes.get(name) is not value:
                self.note(f"changes {name}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it if a graph cannot contain it."""
        if func is aten.lift_fresh.default:
            self.note("makes a tensor of Python values")
        elif func is aten.index.Tensor:
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                self.note("selects by a mask")
        elif any(tag in func.tags for tag in READS):
            self.note(f"reads values back ({func})")
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and any(_crosses(result, arg) for arg in args):
            self.note("copies between host and device")
        return result

    def note(self, obstacle: str) -> None:
        """Note an obstacle to a capture; only the first is kept."""
        self.obstacle = self.obstacle or obstacle


class _Watched:
    """Stands in for the client and reports when it is read."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        self._watch.note(f"reads self.client.{name}")
        return getattr(self._watch._client, name)


def _crosses(result: Tensor, argument: object) -> bool:
    """Whether a tensor crossed between kinds of devices; a scalar counts too, since a graph keeps its value."""
    return isinstance(argument, Tensor) and argument.device.type != result.device.type


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers of a module and its submodules; a graph would not see that a buffer was replaced."""
    found = {}
    for prefix, part in module.named_modules():
        for name, value in {**vars(part), **part._buffers}.items():
            found[f"{prefix}.{name}".lstrip(".")] = value
    return found
