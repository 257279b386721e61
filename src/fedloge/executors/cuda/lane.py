"""A lane: one client after the other, every step the same work on the same tensors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.data.loader import SequentialLoader
from fedloge.executors.base import ClientResult, ClientTask, FederatedData
from fedloge.executors.client import measure
from fedloge.executors.cuda.capture import Watch
from fedloge.executors.cuda.resident import Resident
from fedloge.federation.seeding import Stream, derive
from fedloge.federation.state import ClientUpdate, SharedState, Tensors
from fedloge.methods.base import Client, Method, Phase
from fedloge.system.devices import download, upload

WARM_UP = 3
"""Steps before a capture, in which libraries choose algorithms and make their workspaces."""


PhaseKey = tuple[str, tuple[str, ...] | None]


def phase_key(phase: Phase) -> PhaseKey:
    """Phases with the same key do the same to a batch."""
    return phase.name, phase.trainable


@dataclass(frozen=True)
class Done:
    """What came of a task, in host memory once the lane's stream has got there."""

    method: Method
    client: Client
    shared: Tensors
    personal: Tensors
    losses: Tensors
    examples: int
    report: Tensors

    def result(self) -> ClientResult:
        """The same as a result; ask for it when the stream is done."""
        self.method.take_losses(self.losses, self.examples)
        update = ClientUpdate(
            client=self.client.id,
            tensors=self.shared,
            num_examples=self.client.num_examples,
            class_counts=self.client.class_counts,
            metrics=self.method.local_metrics(),
            report=self.report,
        )
        # The store keeps these for long: not as views of a buffer that holds more.
        return ClientResult(update, {name: tensor.clone() for name, tensor in self.personal.items()})


class Lane:
    """A copy of the method with its own optimisers, batch buffers and stream.

    Every step reads its batch from a page of augmented uint8 images at a position that the step itself moves on, so on
    a GPU the whole step is one launch of a graph, and the host does nothing else.

    Args:
        method: Copied.
        data: Gives the clients' loaders.
        resident: The images.
        received: The shared state on the device, the same tensors in every round.
        seed: Of the run.
        graphs: Capture the steps.
        layout: Memory format of images and convolutions; None leaves them as they come.
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
        self.images = torch.zeros((resident.page_size, *resident.shape), dtype=torch.uint8, device=self.device)
        self.labels = torch.zeros(resident.page_size, dtype=torch.int64, device=self.device)
        self.rows = torch.arange(resident.settings.batch_size, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.losses: dict[str, Tensor] = {}
        self.random = RandomState(self.device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle() if graphs else None
        self._programs: dict[PhaseKey, Program] = {}
        self._work: Generator[None, None, Done] | None = None

    # One client ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether it has no client."""
        return self._work is None

    def cancel(self) -> None:
        """Leave the client that it has, if any."""
        self._work = None

    def close(self) -> None:
        """Give up client and programs, which hold the lane as it holds them; then it goes when nobody else has it."""
        if self.stream is not None:
            self.stream.synchronize()  # no graph goes while it runs
        self.cancel()
        self._programs.clear()

    def submit(self, task: ClientTask, personal: Tensors) -> None:
        """Give it a client to train."""
        self._work = self._train(task, personal)

    def turn(self) -> Done | None:
        """Do a step, or what lies between two; returns what came of the client when it is done."""
        assert self._work is not None
        with torch.cuda.stream(self.stream):
            try:
                next(self._work)
            except StopIteration as end:
                self._work = None
                done: Done = end.value
                return done
        return None

    def _train(self, task: ClientTask, personal: Tensors) -> Generator[None, None, Done]:
        """Like :func:`fedloge.executors.base.train_client`, with a pause after every step."""
        method, client = self.method, self._client(task)
        phases = {number: phase for number, phase in enumerate(task.phases) if phase.epochs}
        personal = {name: upload(tensor, self.device) for name, tensor in personal.items()}
        method.client = client  # learning rates may depend on it
        if self.graphs:
            self._capture(client, personal, list(phases.values()))
        self.random.seed(derive(self.seed, task.round, task.client, Stream.MODULE))
        with self.random:
            self._begin(client, personal)
            report = self._report("report_received", client)
        examples, names = 0, dict[str, None]()
        for number, phase in phases.items():
            program = self.program(phase)
            program.reset()
            loader = self.data.client_loader(client.id, seed=self.seed, round=client.round, phase=number)
            for _ in range(phase.epochs):
                for images, labels in self.resident.pages(loader):
                    self._fill(images, labels)
                    for size in self._sizes(len(labels)):
                        program.step(size)
                        yield
                    examples += len(labels)
            names |= dict.fromkeys(program.names)
        with self.random:
            report = {**report, **self._report("report_trained", client)}
        kept = {name for phase in phases.values() for name in phase.keep}
        entries = method.state_dict()
        return Done(
            method,
            client,
            shared=download({name: entry for name, entry in entries.items() if method.is_shared(name)}),
            personal=download(method.personal_entries(kept)),
            losses=download({name: self.losses[name] for name in names}),
            examples=examples,
            report=download(report),
        )

    def _client(self, task: ClientTask) -> Client:
        return Client(task.client, tuple(map(int, self.data.client_counts(task.client))), task.round)

    def _begin(self, client: Client, personal: Tensors) -> None:
        self.method.begin(client, self.received, personal)
        for total in self.losses.values():
            total.zero_()

    def _report(self, hook: str, client: Client) -> Tensors:
        def batches() -> SequentialLoader:
            return self.resident.in_order(cast(SequentialLoader, self.data.client_batches(client.id)))

        with torch.autocast(self.device.type, enabled=False):
            return measure(self.method, hook, batches, self.device)

    def _fill(self, images: Tensor, labels: Tensor) -> None:
        self.images[: len(labels)].copy_(images)
        self.labels[: len(labels)].copy_(labels)
        self.position.zero_()

    def _sizes(self, images: int) -> list[int]:
        """Of the batches of a page."""
        full, rest = divmod(images, self.resident.settings.batch_size)
        return [self.resident.settings.batch_size] * full + ([rest] if rest else [])

    # Steps ---------------------------------------------------------------------------------------------------

    def program(self, phase: Phase) -> Program:
        """What is done to a batch in a phase, made anew when learning rates change; puts the module into that phase."""
        self.method.begin_phase(phase)
        key, rates = phase_key(phase), dict(self.method.learning_rates())
        if key not in self._programs or self._programs[key].rates != rates:
            self._programs[key] = Program(self, rates)
        return self._programs[key]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """The next images and labels of the page; moves the position on."""
        rows = self.rows[:size] + self.position
        self.position += size
        images = self.resident.normalise(self.images.index_select(0, rows)).to(self.dtype)
        if self.layout is not None:
            images = images.contiguous(memory_format=self.layout)
        return images, self.labels.index_select(0, rows)

    def record(self, names: Sequence[str], values: Tensor, size: int) -> None:
        """Add up the losses [number of losses] of a batch, over its examples."""
        for name in names:
            if name not in self.losses:
                self.losses[name] = torch.zeros_like(values[0])
        torch._foreach_add_([self.losses[name] for name in names], list((values.detach() * size).unbind()))

    def rehearse(self, task: ClientTask, personal: Tensors, phase: Phase) -> tuple[str | None, float]:
        """Try a phase's step on a client; an error of the step itself is raised.

        Returns:
            What stands against capturing it, if anything does, and the cosine between the gradients of a batch under
            the autocast in force, if there is one, and in float32.
        """
        client = self._client(task)
        self.method.client = client
        cosine = 1.0
        with torch.cuda.stream(self.stream), self.random:
            self._load(client, {name: upload(tensor, self.device) for name, tensor in personal.items()})
            program, size = self.program(phase), self._sizes(client.num_examples)[0]
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
        """A method that prepares clients in its own way may put new tensors where a graph has old ones."""
        for hook in ("begin", "begin_phase"):
            if getattr(type(self.method), hook) is not getattr(Method, hook):
                return f"follows a {hook} of its own"
        return None

    def _load(self, client: Client, personal: Tensors) -> None:
        """Take a client's state and its first page, to try steps on."""
        self._begin(client, personal)
        loader = self.data.client_loader(client.id, seed=self.seed, round=client.round)
        self._fill(*next(self.resident.pages(loader)))

    def _capture(self, client: Client, personal: Tensors, phases: Sequence[Phase]) -> None:
        """Capture the steps that the client needs and no client before it did; leaves the state in disorder."""
        sizes = set(self._sizes(client.num_examples))
        for phase in phases:
            for size in sorted(sizes - self.program(phase).graphs.keys(), reverse=True):
                self._load(client, personal)
                self.program(phase).capture(size)

    @property
    def captured(self) -> Mapping[PhaseKey, list[int]]:
        """The batch sizes for which there are graphs, by phase (name, trainable)."""
        return {key: sorted(program.graphs) for key, program in self._programs.items() if program.graphs}


class Program:
    """What a lane does to a batch in a phase: eagerly, or as a CUDA graph per batch size.

    Args:
        lane: Its method is in the phase.
        rates: Learning rates of submodules, which a graph holds as they are now.
    """

    def __init__(self, lane: Lane, rates: Mapping[str, float]) -> None:
        self.lane, self.rates = lane, rates
        self.names: tuple[str, ...] = ()
        self.graphs: dict[int, Any] = {}
        self.optimizer = lane.method.configure_optimizers()
        self._momentum: list[Tensor] = []
        for group in self.optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                # From zero the first step is what it is from nothing, and all steps are alike.
                buffer = torch.zeros_like(parameter)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
                self._momentum.append(buffer)

    def reset(self) -> None:
        """Forget the momentum."""
        if self._momentum:
            torch._foreach_zero_(self._momentum)

    def step(self, size: int) -> None:
        """Train on the next batch of that size."""
        if self.lane.graphs:
            self.graphs[size].replay()
        else:
            with self.lane.random:
                self.eager(size)

    def eager(self, size: int) -> None:
        """The step itself: batch, losses, gradients, SGD."""
        new, losses = not self.names, self.backward(size)
        if new and self.lane.device.type == "cuda":
            self._fuse()
        self.optimizer.step()
        self.lane.record(self.names, losses, size)

    def backward(self, size: int) -> Tensor:
        """Batch, losses [number of losses], gradients."""
        batch = self.lane.batch(size)
        with default_dtype(self.lane.dtype):
            losses = self.lane.method.local_losses(batch)
        self.names = tuple(losses)
        values = torch.stack(tuple(losses.values()))
        self.optimizer.zero_grad()
        values.sum().backward()  # type: ignore[no-untyped-call]
        return values

    def _fuse(self) -> None:
        """Have one kernel do the update, where the gradients lie in memory as the parameters do."""
        for group in self.optimizer.param_groups:
            alike = all(p.grad is None or p.grad.stride() == p.stride() for p in group["params"])
            group["fused"], group["foreach"] = alike, not alike

    def cosine(self, size: int) -> float:
        """Between the gradients of a batch under autocast and without it; 1 where there is none without it."""
        gradient = self._gradient(size)
        with torch.autocast(self.lane.device.type, enabled=False):
            exact = self._gradient(size)
        none = not exact.any() or not exact.isfinite().all()
        return 1.0 if none else float(functional.cosine_similarity(gradient, exact, dim=0))

    def _gradient(self, size: int) -> Tensor:
        """Of the first batch of the page, all parameters in one, float64 [number of parameters]."""
        torch.manual_seed(0)
        self.lane.position.zero_()
        self.backward(size)
        parameters = self.lane.method.parameters()
        gradient = torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None])
        self.optimizer.zero_grad()
        return gradient

    def capture(self, size: int) -> None:
        """Make the graph of a step."""
        for _ in range(WARM_UP):
            self.lane.position.zero_()
            self.eager(size)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        _forget_workspaces()
        with torch.cuda.graph(graph, pool=self.lane.pool, stream=self.lane.stream):
            self.eager(size)
        _forget_workspaces()
        self.optimizer.zero_grad()  # the graph keeps its own
        self.graphs[size] = graph


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, tensors are made of that type where none is given, as Lightning has it in a step."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _forget_workspaces() -> None:
    """Before and after a capture: so a graph has workspaces of cuBLAS's in its own memory, and nobody else does.

    Lightning frees the common ones at the end of every fit, and a graph would go on writing there.
    """
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()


class RandomState(contextlib.AbstractContextManager["RandomState"]):
    """Torch's global generators as a client sees them: inside they go on where they were left."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = self._outer = self._get()

    def seed(self, seed: int) -> None:
        """Start anew."""
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
