"""Test whether a training step can be captured in a CUDA graph, and whether its replay does the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedloge.executors.cuda.generators import random_state
from fedloge.federation.state import Tensors
from fedloge.methods.base import Client, Method

aten: Any = torch.ops.aten
READS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
TOLERANCES = {"32-true": 1e-2, "64-true": 1e-6, "bf16-mixed": 5e-2}
"""Largest :func:`deviation` by precision. Replayed and eager kernels may round differently (TF32 to 1e-3, bfloat16 to
4e-3), which two steps amplify; a value that a graph has frozen deviates by about 1."""

LOSS = "loss: "
"""Prefix of the losses among the entries that are compared."""


@dataclass(frozen=True)
class Trial:
    """What trying a step on a client has shown.

    Args:
        obstacle: Why the step is not captured, or its graphs not used; None if they are.
        cosine: Cosine between the gradients of a batch under the current autocast and in float32; 1 without autocast.
        deviation: :func:`deviation` of two replayed steps; None without graphs.
        eager_seconds: Seconds of an eager step.
        replay_seconds: Seconds of a replayed step; None without graphs.
    """

    obstacle: str | None
    cosine: float
    deviation: float | None
    eager_seconds: float
    replay_seconds: float | None


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
        self._random, self._attributes = random_state(self._method.device), _attributes(self._method)
        self._method.client = cast(Client, _Watched(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._method.client = self._client
        if not all(map(torch.equal, self._random, random_state(self._method.device))):
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


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers of a module and its submodules; a graph would not see that a buffer was replaced."""
    found = {}
    for prefix, part in module.named_modules():
        for name, value in {**vars(part), **part._buffers}.items():
            found[f"{prefix}.{name}".lstrip(".")] = value
    return found


def deviation(start: Tensors, eager: Tensors, replayed: Tensors) -> float:
    """How far replayed steps are from eager ones that began with the same state, as a share of the eager change.

    The largest over all entries of ‖replayed - eager‖ / ‖eager - start‖. An entry that changes by less than a hundredth
    of all entries of its kind (parameters, statistics of BatchNorm, losses) is compared with that hundredth instead,
    since its change may be nothing but rounding. Infinite if integers differ, NaN where something is not finite.

    Args:
        start: Entries before the steps.
        eager: The same entries after the eager steps.
        replayed: The same entries after the replayed steps.
    """
    kinds: dict[str, list[str]] = {}
    for name, entry in eager.items():
        if entry.is_floating_point():
            kinds.setdefault(_kind(name), []).append(name)
        elif not torch.equal(entry, replayed[name]):
            return float("inf")
    worst = [
        _largest_ratio(*(_norms(pair, names) for pair in ((eager, replayed), (start, eager))))
        for names in kinds.values()
    ]
    return float(torch.stack(worst).max()) if worst else 0.0


def _kind(name: str) -> str:
    return "losses" if name.startswith(LOSS) else "statistics" if "running_" in name else "parameters"


def _norms(pair: tuple[Tensors, Tensors], names: list[str]) -> Tensor:
    first, second = pair
    return torch.stack([(second[name].double() - first[name].double()).norm() for name in names]).cpu()


def _largest_ratio(distances: Tensor, changes: Tensor) -> Tensor:
    scales = changes.clamp(min=float(changes.norm()) / 100)
    return torch.where(distances == 0, 0.0, distances / scales).max()
