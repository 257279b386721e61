"""A lane trains one client after another; every step repeats the same work on the same tensors."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Collection, Generator
from typing import Any, cast

import torch
from torch import Tensor

from fedloge.data.loader import SequentialLoader
from fedloge.executors.base import ClientTask, FederatedData
from fedloge.executors.client import LocalTraining, Trained
from fedloge.executors.cuda.batchnorm import without_cudnn
from fedloge.executors.cuda.capture import LOSS, Trial, Watch, deviation
from fedloge.executors.cuda.generators import RandomState
from fedloge.executors.cuda.program import CaptureError, Program
from fedloge.executors.cuda.resident import Resident
from fedloge.executors.cuda.watchdog import Watchdog
from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import SharedState, Tensors
from fedloge.methods.base import Method, Phase
from fedloge.system.devices import device_module, download, is_accelerator, upload_all, wait_for

AHEAD = 32
"""Steps of a lane after which the host waits for the device to do the same number of steps before these."""
CHECKED_STEPS = 2
"""Replayed steps that are compared with eager ones: the second reads what the first has written, and another batch."""

log = logging.getLogger(__name__)

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
        sizes: Batch sizes that clients have.
        graphs: Capture the steps as CUDA graphs.
        layout: Memory format of images and convolutions; None leaves both unchanged.
        native_batchnorm: Let BatchNorm compute by torch's own kernels instead of cuDNN's.
        watchdog: Watches the steps.
    """

    def __init__(
        self,
        method: Method,
        data: FederatedData,
        resident: Resident,
        received: SharedState,
        seed: int,
        *,
        sizes: Collection[int],
        graphs: bool,
        layout: torch.memory_format | None,
        native_batchnorm: bool,
        watchdog: Watchdog,
    ) -> None:
        self.data, self.resident, self.received, self.seed, self.graphs = data, resident, received, seed, graphs
        self.device = resident.device
        self.sizes, self.layout, self.watchdog = sorted(sizes, reverse=True), layout, watchdog
        with method.without_server_entries():
            self.method = copy.deepcopy(method).to(self.device)
        if layout is not None:
            self.method.to(memory_format=layout)
        if native_batchnorm:
            without_cudnn(self.method)
        self.dtype = next(self.method.parameters()).dtype
        largest = max(self.sizes)  # a merged last batch may be larger than the others
        room = resident.page_size + max(0, largest - resident.settings.batch_size)
        self.images = torch.zeros((room, *resident.shape), dtype=resident.dtype, device=self.device)
        self.labels = torch.zeros(room, dtype=torch.int64, device=self.device)
        self.positions = torch.zeros_like(self.labels) if method.indexed else None
        self.rows = torch.arange(largest, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.losses: dict[str, Tensor] = {}
        self.random = RandomState(self.device)
        self.stream: Any = device_module(self.device).Stream(self.device) if is_accelerator(self.device) else None
        self.pool = device_module(self.device).graph_pool_handle() if graphs else None
        self._mark = device_module(self.device).Event() if self.stream is not None else None
        self._steps = 0
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

    def close(self, wait: bool = True) -> None:
        """Drop client and programs: they refer to the lane, and the cycle would keep GPU memory alive."""
        if wait and self.stream is not None:
            self.stream.synchronize()  # a graph must not be freed while it runs
        self.cancel()
        self._programs.clear()

    def submit(self, task: ClientTask, personal: Tensors) -> None:
        """Start the training of a client."""
        self._work = self._train(task, personal)

    def turn(self) -> Trained | None:
        """Do one step, or the work between two; returns the client when it is trained."""
        assert self._work is not None
        with device_module(self.device).stream(self.stream):
            try:
                next(self._work)
            except StopIteration as end:
                self._work = None
                trained: Trained = end.value
                return trained
        return None

    def _pace(self) -> None:
        """Keep the host from running far ahead of the device: a wait at the end would look like a device that hangs."""
        self._steps += 1
        if self._mark is not None and self._steps % AHEAD == 0:
            self._mark.synchronize()
            self._mark.record(self.stream)

    def _train(self, task: ClientTask, personal: Tensors) -> Generator[None, None, Trained]:
        """Like :func:`fedloge.executors.client.train_client`, with a pause after every step."""
        training = self._training(task)
        self.random.seed(training.random_seed)
        with self.random:
            training.begin(self.received, upload_all(personal, self.device))
        self._clear_losses()
        examples, names = 0, dict[str, None]()
        for number, phase in training.phases.items():
            program = self.program(phase)
            program.reset()
            loader = training.loader(phase=number)
            for _ in range(phase.epochs):
                for sizes, *page in self.resident.pages(loader):
                    self._fill(*page)
                    for size in sizes:
                        with self.watchdog.watching():
                            program.step(size)
                            self._pace()
                        yield
                    examples += len(page[0])
            program.finish()
            names |= dict.fromkeys(program.names)
        with self.random:
            return training.finish({name: self.losses[name] for name in names}, examples)

    def _training(self, task: ClientTask) -> LocalTraining:
        def batches() -> SequentialLoader:
            return self.resident.in_order(cast(SequentialLoader, self.data.client_batches(task.client)))

        return LocalTraining(self.method, self.data, self.seed, task, self.device, batches, download, FlatTensors.of)

    def _clear_losses(self) -> None:
        for total in self.losses.values():
            total.zero_()

    def _fill(self, images: Tensor, labels: Tensor, positions: Tensor | None = None) -> None:
        self.images[: len(labels)].copy_(images)
        self.labels[: len(labels)].copy_(labels)
        if self.positions is not None and positions is not None:
            self.positions[: len(labels)].copy_(positions)
        self.position.zero_()

    # Steps ---------------------------------------------------------------------------------------------------

    def program(self, phase: Phase) -> Program:
        """Put the module into a phase and return its program, with the options of SGD that it has now."""
        self.method.begin_phase(phase)
        key = phase_key(phase)
        program = self._programs.get(key)
        if program is None or not program.adopt(self.method.sgd_options()):
            if program is not None:  # its graphs have the old options, and may still run
                wait_for(self.device)
                self.pool = device_module(self.device).graph_pool_handle() if self.graphs else None
            program = self._programs[key] = Program(self)
        return program

    def batch(self, size: int) -> Any:
        """Next images, labels and, if the method wants them, positions of the page; advances to the batch after it."""
        rows = self.rows[:size] + self.position
        self.position += size
        images = self.resident.normalise(self.images.index_select(0, rows)).to(self.dtype)
        if self.layout is not None:
            images = images.contiguous(memory_format=self.layout)
        batch = images, self.labels.index_select(0, rows)
        return batch if self.positions is None else (*batch, self.positions.index_select(0, rows))

    def rehearse(self, task: ClientTask, personal: Tensors, phase: Phase) -> Trial:
        """Try the step of a phase on a client, eagerly and as a graph; an error of the step itself is raised."""
        begin = self._beginning(task, personal)
        with device_module(self.device).stream(self.stream), self.random, self.watchdog.watching():
            size = begin()
            program = self.program(phase)
            program.eager(size)
            self.position.zero_()
            with Watch(self.method) as watch:
                program.eager(size)
            cosine = program.cosine(size) if torch.is_autocast_enabled(self.device.type) else 1.0
            obstacle = self._own_begin() or watch.obstacle
            begin()
            eager_seconds = self._seconds(lambda: program.eager(size))
            if not self.graphs or obstacle:
                return Trial(obstacle, cosine, None, eager_seconds, None)
            program.capture(size)
            deviates = self._deviation(program, size, begin)
            begin()
            return Trial(None, cosine, deviates, eager_seconds, self._seconds(lambda: program.step(size)))

    def capture(self, task: ClientTask, personal: Tensors, phase: Phase) -> None:
        """Capture the step of a phase for all batch sizes, the largest first; leaves the state in disorder.

        A size whose step fails is left out: it fails in the training of the clients that have it, and only there.
        """
        begin = self._beginning(task, personal)
        with device_module(self.device).stream(self.stream), self.random:
            self.method.client = self._training(task).client  # learning rates may depend on it
            program = self.program(phase)
            for size in [size for size in self.sizes if size not in program.graphs]:
                with self.watchdog.watching():
                    try:
                        begin()
                        program.capture(size)
                    except (torch.OutOfMemoryError, CaptureError):
                        raise
                    except Exception as error:
                        log.debug("There is no graph for batches of %d images: %s", size, error)

    def _own_begin(self) -> str | None:
        """Name an overridden hook that may replace tensors which a graph refers to."""
        for hook in ("begin", "begin_phase"):
            if getattr(type(self.method), hook) is not getattr(Method, hook):
                return f"follows a {hook} of its own"
        return None

    def _beginning(self, task: ClientTask, personal: Tensors) -> Callable[[], int]:
        """Function that loads the state and the first page of a client, to try steps on, and returns a batch size."""
        training = self._training(task)

        def begin() -> int:
            self.method.begin(training.client, self.received, upload_all(personal, self.device))
            self._clear_losses()
            sizes, *page = next(self.resident.pages(training.loader()))
            self._fill(*page)
            return int(sizes[0])

        return begin

    def _seconds(self, step: Callable[[], None]) -> float:
        """Seconds of a step until the device has done it."""
        wait_for(self.device)
        began = time.perf_counter()
        step()
        wait_for(self.device)
        return time.perf_counter() - began

    def _deviation(self, program: Program, size: int, begin: Callable[[], int]) -> float:
        """:func:`deviation` of replayed steps from eager ones, on the same client.

        Raises:
            ArithmeticError: If the eager steps diverge, so that there is nothing to compare with.
        """
        results = []
        for step in (program.eager, program.step):
            begin()
            program.reset()
            start = self._entries()
            for done in range(CHECKED_STEPS):
                if (done + 1) * size > len(self.images):
                    self.position.zero_()
                step(size)
            program.finish()
            results.append(self._entries())
        eager, replayed = results
        if not all(bool(entry.isfinite().all()) for entry in eager.values()):
            raise ArithmeticError("its losses or parameters are not finite")
        return deviation(start, eager, replayed)

    def _entries(self) -> dict[str, Tensor]:
        """Copies of all that a step changes: state and losses."""
        losses = {f"{LOSS}{name}": total for name, total in self.losses.items()}
        return {name: entry.detach().clone() for name, entry in {**self.method.state_dict(), **losses}.items()}
