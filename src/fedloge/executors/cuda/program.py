"""The step of a lane in a phase, eager or as CUDA graphs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.errors import FedlogeError
from fedloge.executors.cuda.batchnorm import uncounted
from fedloge.methods.base import Losses, add_losses
from fedloge.system.devices import device_module, is_accelerator, wait_for

if TYPE_CHECKING:
    from fedloge.executors.cuda.lane import Lane

WARM_UP = 3
"""Steps before a capture, in which libraries choose algorithms and allocate their workspaces."""


class CaptureError(FedlogeError):
    """A capture that failed, after which CUDA cannot be used in this process."""


@dataclass
class Captured:
    """A captured step.

    Args:
        graph: Graph of the step.
        counters: Counters of the batches of every BatchNorm, and how often a step raises each; the graph does not.
        replays: How often it was replayed since the counters were raised.
    """

    graph: Any
    counters: list[tuple[Tensor, int]]
    replays: int = 0

    def replay(self) -> None:
        """Do the step."""
        self.graph.replay()
        self.replays += 1

    def count(self) -> None:
        """Raise the counters for all replays."""
        if self.replays and self.counters:
            counters, each = zip(*self.counters, strict=True)
            torch._foreach_add_(list(counters), [self.replays * times for times in each])
        self.replays = 0


class Program:
    """Step of a lane in a phase: eager, or a CUDA graph per batch size.

    Args:
        lane: Lane whose method is in the phase.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.options = lane.method.sgd_options()
        self.names: tuple[str, ...] = ()
        self.graphs: dict[int, Captured] = {}
        self.optimizer = lane.method.configure_optimizers()
        self._momentum = [state["momentum_buffer"] for state in self.optimizer.state.values()]

    def adopt(self, options: Mapping[str, Mapping[str, float]]) -> bool:
        """Take other learning rates; returns whether that gives the step these options of SGD."""
        if options == self.options:
            return True
        groups = [group for group in self.optimizer.param_groups if group["part"] in options]
        if _but_rates(options) != _but_rates(self.options) or not all(isinstance(g["lr"], Tensor) for g in groups):
            return False
        for group in groups:
            group["lr"].fill_(options[group["part"]].get("lr", self.lane.method.lr))
        self.options = options
        return True

    def reset(self) -> None:
        """Set the momentum to zero, and forget replays of a client that failed."""
        for captured in self.graphs.values():
            captured.replays = 0
        if self._momentum:
            torch._foreach_zero_(self._momentum)

    def step(self, size: int) -> None:
        """Train on the next batch, which has that size: eagerly if there is no graph for it."""
        captured = self.graphs.get(size) if self.lane.graphs else None
        if captured is not None:
            captured.replay()
        else:
            with self.lane.random:
                self.eager(size)

    def finish(self) -> None:
        """Bring the counters of BatchNorm up to date after the last step of the phase."""
        for captured in self.graphs.values():
            captured.count()

    def eager(self, size: int) -> None:
        """The step itself: batch, losses, gradients, SGD."""
        new, losses = not self.names, self.gradients(size)
        if new:
            self._prepare_update()
        self.optimizer.step()
        add_losses(self.lane.losses, losses, size)

    def gradients(self, size: int) -> Losses:
        """Put the gradients of the next batch into the parameters; returns its losses."""
        batch = self.lane.batch(size)
        with default_dtype(self.lane.dtype):
            losses = self.lane.method.local_gradients(batch, self.optimizer)
        self.names = tuple(losses)
        return losses

    def _prepare_update(self) -> None:
        """Update by one kernel if the gradients have the memory layout of the parameters, and read its rate there."""
        device = self.lane.device
        for group in self.optimizer.param_groups:
            if is_accelerator(device):
                alike = all(p.grad is None or p.grad.stride() == p.stride() for p in group["params"])
                group["fused"], group["foreach"] = alike, not alike
            if group["fused"]:
                # CUDA's kernel reads a float; the CPU's has the same bits as with a Python number if it is a double.
                dtype = torch.float32 if is_accelerator(device) else torch.float64
                group["lr"] = torch.full((), float(group["lr"]), dtype=dtype, device=device)

    def cosine(self, size: int) -> float:
        """Cosine between the gradients of a batch under autocast and without; 1 if these are zero or not finite."""
        gradient = self._gradient(size)
        with torch.autocast(self.lane.device.type, enabled=False):
            exact = self._gradient(size)
        none = not exact.any() or not exact.isfinite().all()
        return 1.0 if none else float(functional.cosine_similarity(gradient, exact, dim=0))

    def _gradient(self, size: int) -> Tensor:
        """Gradient of the first batch of the page, all parameters in one, float64 [number of parameters]."""
        torch.manual_seed(0)
        self.lane.position.zero_()
        self.gradients(size)
        parameters = self.lane.method.parameters()
        gradient = torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None])
        self.optimizer.zero_grad()
        return gradient

    def capture(self, size: int) -> None:
        """Capture the graph of a step; an error of the steps before it is raised as it is.

        Raises:
            CaptureError: If the capture fails. The allocator and the generator of the device may then be left in it.
        """
        for _ in range(WARM_UP):
            self.lane.position.zero_()
            self.eager(size)
        self.optimizer.zero_grad()
        self.lane.position.zero_()
        wait_for(self.lane.device)
        _forget_workspaces()
        try:
            self.graphs[size] = self._captured(size)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            name = type(self.lane.method).__name__
            raise CaptureError(
                f"the step of {name} for {size} images cannot be captured in a CUDA graph ({_first_line(error)}), and "
                "CUDA cannot be used further in this process. Take "
                "--trainer.executor=cuda --trainer.executor.graphs=false; `fedloge resume` continues the run with it."
            ) from error
        _forget_workspaces()
        self.optimizer.zero_grad()  # the graph has its own

    def _captured(self, size: int) -> Captured:
        module, stream, pool = device_module(self.lane.device), self.lane.stream, self.lane.pool
        graph = module.CUDAGraph()
        # In this mode, what other threads do is no error of the capture; what the collector would free here is.
        recording = module.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with no_collection(), uncounted(self.lane.method) as counters, recording:
            self.eager(size)
        return Captured(graph, [(counter, times) for counter, times in counters if times])


def _but_rates(options: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {part: {**own, "lr": 0.0} for part, own in options.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Turn the garbage collector off inside; an explicit collection, as torch makes before a capture, finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default type inside, as Lightning does in a step."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _forget_workspaces() -> None:
    """Free cuBLAS workspaces before and after a capture, so that a graph has its own in its own memory.

    Lightning frees the common ones at the end of every fit, and a graph would continue to write there.
    """
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()
