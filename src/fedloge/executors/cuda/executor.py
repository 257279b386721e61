"""A whole cohort in one Lightning fit: data on the device, steps as CUDA graphs, several clients at once."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.hooks import ModelHooks

from fedloge.checks import check_least
from fedloge.data.loader import BatchLoader
from fedloge.errors import ConfigError
from fedloge.executors.base import ClientFailure, ClientTask, Executor, FederatedData, LocalSettings, Outcome
from fedloge.executors.client import interrupts_as_usual, local_trainer, not_finite, quiet_lightning
from fedloge.executors.cuda.lane import Done, Lane, PhaseKey, default_dtype, phase_key
from fedloge.executors.cuda.resident import Resident
from fedloge.federation.state import ClientStore, SharedState, num_bytes
from fedloge.methods.base import Method, Phase
from fedloge.system.devices import upload

LANES = 8
"""On a GPU, as long as they have room."""
LANE_STATES = 12
"""Memory of a lane in states of the method: parameters, momentum, gradients, what a step needs, and a margin."""
WAITING_BYTES = 2**32
"""Results of a fit, which wait in host memory for its end."""
LEAST_COSINE = 0.9
"""Between the gradients of a batch in float32 and in the asked precision."""
PRECISIONS = "32-true", "64-true", "bf16-mixed"

log = logging.getLogger(__name__)


class Cohort(Executor):
    """One ``Trainer.fit`` trains the cohort, with a client in the place of a batch: Lightning's steps cost nothing.

    The images lie on the device as uint8 and are augmented there, as it was drawn for (seed, round, client). On a GPU
    the step is captured as a CUDA graph for each batch size that occurs, and several clients are trained on parallel
    streams, each with a copy of the module: the largest first, each as soon as a lane is free. A method whose step
    cannot be captured is trained eagerly, which is told once.

    Args:
        lanes: Clients that are trained at the same time; None takes 8 where they fit in memory, and one without graphs.
        graphs: Capture steps. Off, the same is done eagerly, on any device.
        channels_last: Memory format of images and convolutions. None takes it for both on a GPU, and on a CPU for the
            images, as with the other executors.
        tf32: Allow TF32 in convolutions and products of the training on a GPU. What was set by ``fp32_precision`` of
            torch's backends stands, and evaluation does what torch is set to, as with every executor.
        benchmark: Have cuDNN measure its algorithms for every shape, which takes a while at the start; the choice, and
            so the last bits of the result, may differ from run to run.

    Raises:
        ConfigError: If ``lanes`` is below 1.
    """

    def __init__(
        self,
        lanes: int | None = None,
        graphs: bool = True,
        channels_last: bool | None = None,
        tf32: bool = True,
        benchmark: bool = False,
    ) -> None:
        check_least("trainer.executor.lanes", 1 if lanes is None else lanes, 1)
        self.asked_lanes, self.graphs, self.channels_last = lanes, graphs, channels_last
        self.tf32, self.benchmark = tf32, benchmark
        self._forget()

    def _forget(self) -> None:
        self.lanes: list[Lane] = []
        self._resident: Resident | None = None
        self._received: SharedState | None = None
        self._room = 0
        self._obstacles: dict[PhaseKey, str | None] = {}

    @property
    def workers(self) -> int:
        """Clients that are trained at the same time at most, which an estimate before the run asks for."""
        return (self.asked_lanes or LANES) if self.graphs else 1

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Take what is trained; the device is used from the first round on."""
        if self.graphs and settings.device.type != "cuda":
            problem = f"captures CUDA graphs, but the device is {settings.device}"
            raise ConfigError("trainer.executor", "cuda", problem, "Take auto, or --trainer.executor.graphs=false.")
        if reason := obstacle(method, settings):
            raise ConfigError("trainer.executor", "cuda", reason, "Take serial.")
        self.close()
        super().start(method, data, settings)

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the result of every task in order, when the fit that trains it is over."""
        window = max(4 * (self.asked_lanes or LANES), WAITING_BYTES // num_bytes(self.method.state_dict()))
        for start in range(0, len(tasks), window):
            part = tasks[start : start + window]
            outcomes = self._fit(shared, clients, part)
            for _ in range(self.settings.attempts - 1):
                again = [position for position, outcome in outcomes.items() if isinstance(outcome, ClientFailure)]
                if again:
                    second = self._fit(shared, clients, [part[position] for position in again])
                    outcomes |= {again[number]: outcome for number, outcome in second.items()}
            for position in range(len(part)):
                yield outcomes.pop(position)

    def close(self) -> None:
        """Give back the device's memory."""
        while self.lanes:
            self.lanes.pop().close()
        self._forget()
        torch.cuda.empty_cache()

    def _fit(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> dict[int, Outcome]:
        """What comes of tasks, by position."""
        cohort = CohortModule(self, shared, clients, tasks)
        try:
            with quiet_lightning(), interrupts_as_usual(), self._arithmetic():
                local_trainer(self.settings, epochs=1).fit(cohort, Turns(len(tasks)))
            return {position: _outcome(cohort.done.pop(position)) for position in range(len(tasks))}
        finally:
            cohort.let_go()

    # What the fit asks for -----------------------------------------------------------------------------------

    def open(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> list[Lane]:
        """The lanes to train with, after a look at every phase that is new; all that they need is on the device."""
        device = self.settings.device
        self._receive(shared, tasks[0], device)
        if not self.lanes:
            self.lanes.append(self._lane())
        phases = {phase_key(phase): phase for task in tasks for phase in task.phases if phase.epochs}
        if self.graphs or self.settings.precision == "bf16-mixed":
            for key in phases.keys() - self._obstacles.keys():
                self._rehearse(phases[key], clients, tasks)
        graphs = self.graphs and not any(self._obstacles.get(key, "fails") for key in phases)
        self._room = self._room or self._find_room(device)
        wanted = self._room if graphs or not self.graphs else 1
        while len(self.lanes) < min(wanted, len(tasks)):
            self.lanes.append(self._lane())
        for lane in self.lanes:
            lane.cancel()
            lane.graphs = graphs
        return self.lanes[: min(wanted, len(tasks))]

    def _receive(self, shared: SharedState, task: ClientTask, device: torch.device) -> None:
        """Put the shared state, and the images if they are not there yet, on the device."""
        if self._resident is None:
            loader = self.data.client_loader(task.client, seed=self.settings.seed, round=task.round)
            if not isinstance(loader, BatchLoader):
                problem = f"serves clients by a {type(loader).__name__}, not a BatchLoader"
                raise ConfigError("data", type(self.data).__name__, problem, "Take --trainer.executor=serial.")
            self._resident = Resident(loader, device)
        if self._received is None:
            tensors, fixed = (
                {name: torch.empty_like(tensor, device=device) for name, tensor in part.items()}
                for part in (shared.tensors, shared.fixed)
            )
            self._received = SharedState(tensors, fixed)
        for kept, new in ((self._received.tensors, shared.tensors), (self._received.fixed, shared.fixed)):
            for name, tensor in new.items():
                kept[name].copy_(upload(tensor, device))
        _wait(device)

    def _lane(self) -> Lane:
        assert self._resident is not None
        assert self._received is not None
        wanted = True if self.channels_last is None and self.settings.device.type == "cuda" else self.channels_last
        layouts = {None: None, True: torch.channels_last, False: torch.contiguous_format}
        lane = Lane(
            self.method,
            self.data,
            self._resident,
            self._received,
            self.settings.seed,
            graphs=self.graphs,
            layout=layouts[wanted],
        )
        _wait(self.settings.device)  # its stream is not the one that made it
        return lane

    def _rehearse(self, phase: Phase, clients: ClientStore, tasks: Sequence[ClientTask]) -> None:
        """Note what stands against capturing the phase; refuses a precision that bends its gradient.

        The first client whose step works tells. Where none does, the next cohort is asked.
        """
        for task in tasks:
            try:
                obstacle, cosine = self.lanes[0].rehearse(task, clients[task.client], phase)
                break
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # in training it will be the client's failure
                log.debug("Client %d tells nothing of its step: %s", task.client, error)
        else:
            return
        if not cosine >= LEAST_COSINE:
            problem = f"bends the gradient of a batch: its cosine with float32's is {cosine:.2f}"
            raise ConfigError("trainer.precision", self.settings.precision, problem, "Take 32-true.")
        if obstacle and self.graphs and not any(self._obstacles.values()):
            name = type(self.method).__name__
            log.warning("%s is trained without CUDA graphs, one client at a time: its step %s", name, obstacle)
        self._obstacles[phase_key(phase)] = obstacle

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """What a GPU may do; as it was afterwards."""
        if self.settings.device.type != "cuda":
            yield
            return
        cudnn: Any = torch.backends.cudnn
        benchmark, tf32 = cudnn.benchmark, _tf32()
        try:
            cudnn.benchmark = self.benchmark
            if tf32:
                torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
                cudnn.allow_tf32 = self.tf32
            yield
        finally:
            cudnn.benchmark = benchmark
            if tf32:
                torch.set_float32_matmul_precision(tf32[0])
                cudnn.allow_tf32 = tf32[1]

    def _find_room(self, device: torch.device) -> int:
        """How many lanes: as asked, or as many as pay and fit."""
        if self.asked_lanes or not self.graphs or device.type != "cuda":
            return self.asked_lanes or 1
        free = torch.cuda.mem_get_info(device)[0]
        return max(1, min(LANES, free // (LANE_STATES * num_bytes(self.method.state_dict()))))


class CohortModule(LightningModule):
    """A cohort as Lightning sees it: an epoch, in which a batch is a client.

    Args:
        executor: Has the lanes.
        shared: What the clients start from.
        clients: Their personal states.
        tasks: The cohort.
    """

    def __init__(
        self, executor: Cohort, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.executor, self.shared, self.clients, self.tasks = executor, shared, clients, tasks
        counts = executor.data.client_counts
        work = [sum(counts(task.client)) * sum(phase.epochs for phase in task.phases) for task in tasks]
        self.todo = deque(sorted(range(len(tasks)), key=lambda position: -work[position]))
        self.done: dict[int, Done | ClientFailure] = {}
        """What came of the tasks, by position."""
        self._lanes: dict[Lane, int] = {}

    def configure_optimizers(self) -> None:
        """Every lane has its own."""

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Let the lanes do a step each in turn, until one more client is done."""
        # Lightning's autocast spans many steps here, in which weights change: none that it has cast may be kept.
        if torch.is_autocast_enabled(self.device.type):
            torch.set_autocast_cache_enabled(False)
        try:
            with default_dtype(torch.float32):  # for data and clients, which others make outside of a step
                if not self._lanes:
                    self._lanes = dict.fromkeys(self.executor.open(self.shared, self.clients, self.tasks), -1)
                while len(self.done) <= batch_idx:
                    for lane in self._lanes:
                        self._turn(lane)
        except torch.OutOfMemoryError as error:
            problem, remedy = "do not fit in the device's memory", "Ask for fewer, or for a smaller data.batch_size."
            raise ConfigError("trainer.executor.lanes", len(self.executor.lanes), problem, remedy) from error

    def on_train_end(self) -> None:
        """Wait until everything is in host memory."""
        _wait(self.executor.settings.device)

    def let_go(self) -> None:
        """Keep no lane alive: module and trainer hold each other, until the garbage collector finds them."""
        self._lanes.clear()
        self.done.clear()

    def _turn(self, lane: Lane) -> None:
        if lane.idle:
            if not self.todo:
                return
            self._lanes[lane] = position = self.todo.popleft()
            lane.submit(self.tasks[position], self.clients[self.tasks[position].client])
        done: Done | ClientFailure | None
        try:
            done = lane.turn()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            lane.cancel()
            reason = f"{type(error).__name__}: {error}"
            done = ClientFailure(self.tasks[self._lanes[lane]].client, reason, traceback.format_exc())
        if done is not None:
            self.done[self._lanes[lane]] = done


class Turns:
    """Lightning's batches: a number for every client."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def obstacle(method: Method, settings: LocalSettings) -> str | None:
    """Why the cohort cannot be trained in one fit, if there is a reason."""
    if settings.precision not in PRECISIONS:
        return f"trains in {', '.join(PRECISIONS)}, but the precision is {settings.precision}"
    for name in ("training_step", "configure_optimizers", *vars(ModelHooks)):
        if not name.startswith("__") and getattr(type(method), name) is not getattr(Method, name):
            return f"does not call {name}, which {type(method).__name__} has of its own"
    return None


def _tf32() -> tuple[str, bool] | None:
    """Of products and of convolutions; None where ``fp32_precision`` set what these older names cannot tell."""
    try:
        return torch.get_float32_matmul_precision(), bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def _outcome(done: Done | ClientFailure) -> Outcome:
    """A result that is not finite is a failure."""
    if isinstance(done, ClientFailure):
        return done
    result = done.result()
    reason = not_finite(result)
    return ClientFailure(result.update.client, reason) if reason else result


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
