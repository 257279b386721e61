"""Whether a training step can be captured in a CUDA graph, found out by watching one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedloge.methods.base import Client, Method

aten: Any = torch.ops.aten
READS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks on while a method does a step, for what a graph would freeze or cannot hold.

    A graph repeats the work on the device and nothing else. So a step must not read values back (a branch on a
    tensor, ``item``, a boolean mask), make tensors of Python values, draw from torch's global generators, read
    ``self.client``, or leave anything behind in Python; :attr:`obstacle` says in words which of these it does.

    Args:
        method: Whose step it is. The first step may fill caches: watch the second.
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
            self.tell("draws random numbers")
        for name, value in _attributes(self._method).items():
            if self._attributes.get(name) is not value:
                self.tell(f"changes {name}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked for, and note what it is."""
        if func is aten.lift_fresh.default:
            self.tell("makes a tensor of Python values")
        elif func is aten.index.Tensor:
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                self.tell("selects by a mask")
        elif any(tag in func.tags for tag in READS):
            self.tell(f"reads values back ({func})")
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and any(_crosses(result, arg) for arg in args):
            self.tell("copies between host and device")
        return result

    def tell(self, obstacle: str) -> None:
        """Note what stands against a capture; the first thing counts."""
        self.obstacle = self.obstacle or obstacle


class _Watched:
    """Stands in for the client: reading it is told."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        self._watch.tell(f"reads self.client.{name}")
        return getattr(self._watch._client, name)


def _crosses(result: Tensor, argument: object) -> bool:
    """Whether a tensor came from, or went to, another kind of device; a scalar too, which a graph holds as it was."""
    return isinstance(argument, Tensor) and argument.device.type != result.device.type


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes and buffers of a module and all in it; a buffer put in another's place would be lost."""
    found = {}
    for prefix, part in module.named_modules():
        for name, value in {**vars(part), **part._buffers}.items():
            found[f"{prefix}.{name}".lstrip(".")] = value
    return found
