"""A lane trains one client after another; every step repeats the same work on the same tensors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.data.loader import SequentialLoader
from fedloge.executors.base import ClientTask, FederatedData
from fedloge.executors.client import LocalTraining, Trained
from fedloge.executors.cuda.capture import Watch
from fedloge.executors.cuda.resident import Resident
from fedloge.federation.state import SharedState, Tensors
from fedloge.methods.base import Losses, Method, Phase, add_losses
from fedloge.system.devices import download, upload

WARM_UP = 3
"""Steps before a capture, in which libraries choose algorithms and allocate their workspaces."""

PhaseKey = tuple[str, tuple[str, ...] | None]


def phase_key(phase: Phase) -> PhaseKey:
    """Key of a phase; phases with the same key have the same step."""
    return phase.name, phase.trainable


class Lane:
    """A copy of the method with its own optimisers, batch buffers and stream.

    Every step reads its batch from a page of augmented uint8 images, at a position that the step itself advances. So
    on a GPU the whole step is one launch of a graph, and the host does nothing else.

    Args:
        method: Method to copy.
        data: Data of all clients.
        resident: Training images on the device.
        received: Shared state on the device, in the same tensors in every round.
        seed: Run seed.
        graphs: Capture the steps as CUDA graphs.
        layout: Memory format of images and convolutions; None leaves both unchanged.
    """

    def __init__(
        self,
        method: Method,
        data: FederatedData,
        resident: Resident,
        received: SharedState,
        seed: int,
        *,
        graphs: bool,
        layout: torch.memory_format | None,
    ) -> None:
        self.data, self.resident, self.received, self.seed, self.graphs = data, resident, received, seed, graphs
        self.device = resident.device
        self.layout = layout
        self.method = copy.deepcopy(method).to(self.device)
        if layout is not None:
            self.method.to(memory_format=layout)
        self.dtype = next(self.method.parameters()).dtype
        self.images = torch.zeros((resident.page_size, *resident.shape), dtype=resident.dtype, device=self.device)
        self.labels = torch.zeros(resident.page_size, dtype=torch.int64, device=self.device)
        self.rows = torch.arange(resident.settings.batch_size, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.losses: dict[str, Tensor] = {}
        self.random = RandomState(self.device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle() if graphs else None
        self._programs: dict[PhaseKey, Program] = {}
        self._work: Generator[None, None, Trained] | None = None

    # One client ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether the lane has no client."""
        return self._work is None

    def cancel(self) -> None:
        """Drop the current client, if any."""
        self._work = None

    def close(self) -> None:
        """Drop client and programs: they refer to the lane, and the cycle would keep GPU memory alive."""
        if self.stream is not None:
            self.stream.synchronize()  # a graph must not be freed while it runs
        self.cancel()
        self._programs.clear()

    def submit(self, task: ClientTask, personal: Tensors) -> None:
        """Start the training of a client."""
        self._work = self._train(task, personal)

    def turn(self) -> Trained | None:
        """Do one step, or the work between two; returns the client when it is trained."""
        assert self._work is not None
        with torch.cuda.stream(self.stream):
            try:
                next(self._work)
            except StopIteration as end:
                self._work = None
                trained: Trained = end.value
                return trained
        return None

    def _train(self, task: ClientTask, personal: Tensors) -> Generator[None, None, Trained]:
        """Like :func:`fedloge.executors.client.train_client`, with a pause after every step."""
        training = self._training(task)
        personal = {name: upload(tensor, self.device) for name, tensor in personal.items()}
        self.method.client = training.client  # learning rates may depend on it
        if self.graphs:
            self._capture(training, personal)
        self.random.seed(training.random_seed)
        with self.random:
            training.begin(self.received, personal)
        self._clear_losses()
        examples, names = 0, dict[str, None]()
        for number, phase in training.phases.items():
            program = self.program(phase)
            program.reset()
            loader = training.loader(phase=number)
            for _ in range(phase.epochs):
                for images, labels in self.resident.pages(loader):
                    self._fill(images, labels)
                    for size in self._sizes(len(labels)):
                        program.step(size)
                        yield
                    examples += len(labels)
            names |= dict.fromkeys(program.names)
        with self.random:
            return training.finish({name: self.losses[name] for name in names}, examples)

    def _training(self, task: ClientTask) -> LocalTraining:
        def batches() -> SequentialLoader:
            return self.resident.in_order(cast(SequentialLoader, self.data.client_batches(task.client)))

        return LocalTraining(self.method, self.data, self.seed, task, self.device, batches, download)

    def _clear_losses(self) -> None:
        for total in self.losses.values():
            total.zero_()

    def _fill(self, images: Tensor, labels: Tensor) -> None:
        self.images[: len(labels)].copy_(images)
        self.labels[: len(labels)].copy_(labels)
        self.position.zero_()

    def _sizes(self, images: int) -> list[int]:
        """Sizes of the batches in a page with that many images."""
        full, rest = divmod(images, self.resident.settings.batch_size)
        return [self.resident.settings.batch_size] * full + ([rest] if rest else [])

    # Steps ---------------------------------------------------------------------------------------------------

    def program(self, phase: Phase) -> Program:
        """Put the module into a phase and return its program, a new one if options of SGD have changed."""
        self.method.begin_phase(phase)
        key, options = phase_key(phase), dict(self.method.sgd_options())
        if key not in self._programs or self._programs[key].options != options:
            self._programs[key] = Program(self, options)
        return self._programs[key]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Next images and labels of the page; advances the position."""
        rows = self.rows[:size] + self.position
        self.position += size
        images = self.resident.normalise(self.images.index_select(0, rows)).to(self.dtype)
        if self.layout is not None:
            images = images.contiguous(memory_format=self.layout)
        return images, self.labels.index_select(0, rows)

    def rehearse(self, task: ClientTask, personal: Tensors, phase: Phase) -> tuple[str | None, float]:
        """Try the step of a phase on a client; an error of the step itself is raised.

        Returns:
            Reason why the step cannot be captured, if there is one; and the cosine between the gradients of a batch
            under the current autocast and in float32, 1 without autocast.
        """
        training = self._training(task)
        self.method.client = training.client
        cosine = 1.0
        with torch.cuda.stream(self.stream), self.random:
            self._load(training, {name: upload(tensor, self.device) for name, tensor in personal.items()})
            program, size = self.program(phase), self._sizes(training.client.num_examples)[0]
            program.eager(size)
            self.position.zero_()
            with Watch(self.method) as watch:
                program.eager(size)
            if torch.is_autocast_enabled(self.device.type):
                cosine = program.cosine(size)
            obstacle = self._own_begin() or watch.obstacle
            if self.graphs and obstacle is None:
                try:
                    program.capture(size)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    obstacle = f"cannot be captured ({type(error).__name__}: {error})"
        return obstacle, cosine

    def _own_begin(self) -> str | None:
        """Name an overridden hook that may replace tensors which a graph refers to."""
        for hook in ("begin", "begin_phase"):
            if getattr(type(self.method), hook) is not getattr(Method, hook):
                return f"follows a {hook} of its own"
        return None

    def _load(self, training: LocalTraining, personal: Tensors) -> None:
        """Load the state and the first page of a client, to try steps on."""
        self.method.begin(training.client, self.received, personal)
        self._clear_losses()
        self._fill(*next(self.resident.pages(training.loader())))

    def _capture(self, training: LocalTraining, personal: Tensors) -> None:
        """Capture the steps that this client is the first to need; leaves the state in disorder."""
        sizes = set(self._sizes(training.client.num_examples))
        for phase in training.phases.values():
            for size in sorted(sizes - self.program(phase).graphs.keys(), reverse=True):
                self._load(training, personal)
                self.program(phase).capture(size)


class Program:
    """Step of a lane in a phase: eager, or a CUDA graph per batch size.

    Args:
        lane: Lane whose method is in the phase.
        options: Options of SGD for submodules, which a graph keeps as constants.
    """

    def __init__(self, lane: Lane, options: Mapping[str, Mapping[str, float]]) -> None:
        self.lane, self.options = lane, options
        self.names: tuple[str, ...] = ()
        self.graphs: dict[int, Any] = {}
        self.optimizer = lane.method.configure_optimizers()
        self._momentum = [state["momentum_buffer"] for state in self.optimizer.state.values()]

    def reset(self) -> None:
        """Set the momentum to zero."""
        if self._momentum:
            torch._foreach_zero_(self._momentum)

    def step(self, size: int) -> None:
        """Train on the next batch, which has that size."""
        if self.lane.graphs:
            self.graphs[size].replay()
        else:
            with self.lane.random:
                self.eager(size)

    def eager(self, size: int) -> None:
        """The step itself: batch, losses, gradients, SGD."""
        new, losses = not self.names, self.gradients(size)
        if new and self.lane.device.type == "cuda":
            self._fuse()
        self.optimizer.step()
        add_losses(self.lane.losses, losses, size)

    def gradients(self, size: int) -> Losses:
        """Put the gradients of the next batch into the parameters; returns its losses."""
        batch = self.lane.batch(size)
        with default_dtype(self.lane.dtype):
            losses = self.lane.method.local_gradients(batch, self.optimizer)
        self.names = tuple(losses)
        return losses

    def _fuse(self) -> None:
        """Update by one kernel, if the gradients have the memory layout of the parameters."""
        for group in self.optimizer.param_groups:
            alike = all(p.grad is None or p.grad.stride() == p.stride() for p in group["params"])
            group["fused"], group["foreach"] = alike, not alike

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
        """Capture the graph of a step."""
        for _ in range(WARM_UP):
            self.lane.position.zero_()
            self.eager(size)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        _forget_workspaces()
        with torch.cuda.graph(graph, pool=self.lane.pool, stream=self.lane.stream):
            self.eager(size)
        _forget_workspaces()
        self.optimizer.zero_grad()  # the graph has its own
        self.graphs[size] = graph


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


class RandomState(contextlib.AbstractContextManager["RandomState"]):
    """Torch's global generators as a client sees them: each block continues where the last one ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = self._outer = self._get()

    def seed(self, seed: int) -> None:
        """Seed the generators."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._own = self._get()

    def __enter__(self) -> RandomState:
        self._outer = self._get()
        self._set(self._own)
        return self

    def __exit__(self, *error: Any) -> None:
        self._own = self._get()
        self._set(self._outer)

    def _get(self) -> tuple[Tensor, Tensor | None]:
        on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), on_device

    def _set(self, states: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], self._device)
