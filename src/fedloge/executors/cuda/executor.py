"""A cohort in one Lightning fit: data on the device, steps as CUDA graphs, several clients at once."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning import LightningModule

from fedloge.checks import check_choice, check_least
from fedloge.data.loader import BatchLoader
from fedloge.errors import ConfigError, FedlogeError
from fedloge.executors.base import ClientFailure, ClientTask, Executor, FederatedData, LocalSettings, Outcome
from fedloge.executors.client import (
    Trained,
    interrupts_as_usual,
    local_trainer,
    not_finite,
    overridden_hook,
    quiet_lightning,
)
from fedloge.executors.cuda.capture import TOLERANCES, Trial
from fedloge.executors.cuda.lane import AHEAD, Lane, PhaseKey, phase_key
from fedloge.executors.cuda.program import CaptureError, default_dtype
from fedloge.executors.cuda.resident import Resident
from fedloge.executors.cuda.watchdog import LIMIT, Watchdog
from fedloge.federation.state import ClientStore, SharedState, num_bytes
from fedloge.methods.base import Method, Phase
from fedloge.system.devices import device_module, is_accelerator, laid_out, let_streams_run_apart, upload, wait_for

LANES = 8
"""Lanes on a GPU, if its memory has room for them."""
LANE_STATES = 16
"""Memory of a lane in states of the method: parameters, momentum, gradients, activations, waiting results, a margin."""
WAITING_BYTES = 2**32
"""Bytes of results that may wait for the end of a fit, on the device and in host memory."""
LEAST_COSINE = 0.9
"""Least cosine between the gradients of a batch in float32 and in the configured precision."""
PRECISIONS = "32-true", "64-true", "bf16-mixed"

log = logging.getLogger(__name__)


class Cohort(Executor):
    """One ``Trainer.fit`` trains the cohort, with a client in the place of a batch, so that Lightning costs nothing.

    The images lie on the device as uint8 and are augmented there, as drawn for (seed, round, client). On a GPU the
    step is captured as a CUDA graph for each batch size that clients have, and several clients are trained on parallel
    streams, each with a copy of the module: the largest first, each as soon as a lane is free. Before, two replayed
    steps are compared with eager ones. Where the step cannot be captured, or its replay differs, training is eager,
    with one warning. A step that does not return within a minute ends the process.

    Args:
        lanes: Number of clients to train at the same time; None takes 8 if they fit in memory, and 1 without graphs.
        graphs: Capture the steps; False does the same eagerly, on any device.
        channels_last: Memory format of images and convolutions. None takes channels last for both on a GPU, and on a
            CPU for the images only, like the other executors.
        tf32: Allow TF32 in convolutions and matrix products of the training on a GPU. A setting made by
            ``fp32_precision`` of torch's backends is kept, and evaluation uses torch's own settings.
        benchmark: Let cuDNN measure its algorithms for every shape, which takes a while at the start; its choice, and
            so the last bits of the result, may differ from run to run.
        batchnorm: Library that computes BatchNorm on a GPU: torch's ``native`` kernels, or ``cudnn``, whose kernels for
            channels last may stall beside other streams.

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
        batchnorm: Literal["native", "cudnn"] = "native",
    ) -> None:
        check_least("trainer.executor.lanes", 1 if lanes is None else lanes, 1)
        check_choice("trainer.executor.batchnorm", batchnorm, ("native", "cudnn"))
        self.asked_lanes, self.graphs, self.channels_last = lanes, graphs, channels_last
        self.tf32, self.benchmark, self.batchnorm = tf32, benchmark, batchnorm
        self.watchdog = Watchdog()
        self._forget()

    def _forget(self) -> None:
        self.lanes: list[Lane] = []
        self._resident: Resident | None = None
        self._received: SharedState | None = None
        self._sizes: set[int] = set()
        self._room = 0
        self.broken: FedlogeError | None = None
        """Error after which the device is left alone: a capture that failed, or too little memory."""
        self.trials: dict[PhaseKey, Trial] = {}
        """What a trial of each phase has shown."""

    @property
    def workers(self) -> int:
        """Greatest number of clients that are trained at the same time."""
        return (self.asked_lanes or LANES) if self.graphs else 1

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Set method, data and settings; the device is used from the first round on."""
        if self.graphs and not is_accelerator(settings.device):
            problem = f"captures CUDA graphs, but the device is {settings.device}"
            raise ConfigError("trainer.executor", "cuda", problem, "Take auto, or --trainer.executor.graphs=false.")
        if reason := obstacle(method, settings):
            raise ConfigError("trainer.executor", "cuda", reason, "Take serial.")
        let_streams_run_apart()
        self.close()
        super().start(method, data, settings)

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the result of every task in order, at the end of the fit that trains it."""
        window = max(4 * (self.asked_lanes or LANES), self._waiting_bytes() // num_bytes(self.method.state_dict()))
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
        """Free the memory of the device, if it can still be used."""
        while self.lanes:
            self.lanes.pop().close(wait=self.broken is None)
        if self.broken is None:
            torch.cuda.empty_cache()
        self._forget()

    def _fit(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> dict[int, Outcome]:
        """Train tasks; returns their outcomes by position."""
        cohort = CohortModule(self, shared, clients, tasks)
        watched = self.watchdog if is_accelerator(self.settings.device) else contextlib.nullcontext()
        try:
            with quiet_lightning(), interrupts_as_usual(), self._arithmetic(), watched:
                local_trainer(self.settings, epochs=1).fit(cohort, Turns(len(tasks)))
            return {position: _outcome(cohort.done.pop(position)) for position in range(len(tasks))}
        except Exception:
            if self.broken is not None:  # Lightning's cleaning up may have failed since, with another error
                raise self.broken from None
            raise
        finally:
            cohort.let_go()

    # Called by the fit -------------------------------------------------------------------------------------

    def open(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> list[Lane]:
        """Put everything on the device, try every new phase, and return the lanes to train with."""
        device = self.settings.device
        self.watchdog.limit = LIMIT * (5 if self.benchmark else 2)  # libraries are loaded and choose algorithms
        self._receive(shared, tasks[0], len(clients))
        if not self.lanes:
            self.lanes.append(self._lane())
        phases = {phase_key(phase): phase for task in tasks for phase in task.phases if phase.epochs}
        if self.graphs or self.settings.precision == "bf16-mixed":
            for key in phases.keys() - self.trials.keys():
                self._rehearse(phases[key], clients, tasks)
        graphs = self.graphs and all(key in self.trials and self.trials[key].obstacle is None for key in phases)
        self._room = self._room or self._find_room(device)
        wanted = min(self._room if graphs or not self.graphs else 1, len(tasks))
        while len(self.lanes) < wanted:
            self.lanes.append(self._lane())
        for lane in self.lanes:
            lane.cancel()
            lane.graphs = graphs
        if graphs:
            for lane in self.lanes[:wanted]:
                for phase in phases.values():
                    lane.capture(tasks[0], clients[tasks[0].client], phase)
        self.watchdog.limit = max(LIMIT, 4 * AHEAD * wanted * self._step_seconds())
        return self.lanes[:wanted]

    def _step_seconds(self) -> float:
        return max((trial.eager_seconds for trial in self.trials.values()), default=0.0)

    def _receive(self, shared: SharedState, task: ClientTask, population: int) -> None:
        """Copy the shared state to the device, and the images of all clients if they are not there yet."""
        device = self.settings.device
        if self._resident is None:
            loader = self.data.client_loader(task.client, seed=self.settings.seed, round=task.round)
            if not isinstance(loader, BatchLoader):
                problem = f"serves clients by a {type(loader).__name__}, not a BatchLoader"
                raise ConfigError("data", type(self.data).__name__, problem, "Take --trainer.executor=serial.")
            self._resident = Resident(loader, device)
            counts = {sum(self.data.client_counts(client)) for client in range(population)}
            self._sizes = {size for images in counts for size in loader.settings.sizes(images)}
        if self._received is None:
            tensors, fixed = (
                {name: laid_out(torch.empty_like(tensor, device=device), self._layout) for name, tensor in part.items()}
                for part in (shared.tensors, shared.fixed)
            )
            self._received = SharedState(tensors, fixed)
        for kept, new in ((self._received.tensors, shared.tensors), (self._received.fixed, shared.fixed)):
            for name, tensor in new.items():
                kept[name].copy_(upload(tensor, device))
        wait_for(device)

    @property
    def _layout(self) -> torch.memory_format | None:
        """Memory format of images and convolutions, and of the received state, so that it is copied as it lies."""
        wanted = True if self.channels_last is None and is_accelerator(self.settings.device) else self.channels_last
        return {None: None, True: torch.channels_last, False: torch.contiguous_format}[wanted]

    def _lane(self) -> Lane:
        assert self._resident is not None
        assert self._received is not None
        lane = Lane(
            self.method,
            self.data,
            self._resident,
            self._received,
            self.settings.seed,
            sizes=self._sizes,
            graphs=self.graphs,
            layout=self._layout,
            native_batchnorm=self.batchnorm == "native",
            watchdog=self.watchdog,
        )
        wait_for(self.settings.device)  # it was made on another stream than its own
        return lane

    def _rehearse(self, phase: Phase, clients: ClientStore, tasks: Sequence[ClientTask]) -> None:
        """Note why the phase cannot be captured, if so; refuse a precision that bends its gradient.

        The first client whose step works decides. If there is none, the phase is tried again with the next cohort.
        """
        for task in tasks:
            try:
                trial = self.lanes[0].rehearse(task, clients[task.client], phase)
                break
            except (torch.OutOfMemoryError, CaptureError):
                raise
            except Exception as error:  # in training the client will fail with it
                log.debug("The step of client %d failed in a trial: %s", task.client, error)
        else:
            return
        if not trial.cosine >= LEAST_COSINE:
            problem = f"bends the gradient of a batch: its cosine with float32's is {trial.cosine:.2f}"
            raise ConfigError("trainer.precision", self.settings.precision, problem, "Take 32-true.")
        trial = self._judged(trial)
        if trial.obstacle and self.graphs and not any(other.obstacle for other in self.trials.values()):
            name = type(self.method).__name__
            log.warning("%s is trained without CUDA graphs, one client at a time: its step %s", name, trial.obstacle)
        self.trials[phase_key(phase)] = trial

    def _judged(self, trial: Trial) -> Trial:
        """The trial, with an obstacle where replayed steps deviate from eager ones."""
        allowed = TOLERANCES[self.settings.precision]
        if trial.deviation is None or trial.deviation <= allowed:
            return trial
        obstacle = f"deviates by {trial.deviation:.2g} of its effect when it is replayed, where {allowed:g} is allowed"
        return replace(trial, obstacle=obstacle)

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Set the arithmetic of a GPU inside, and restore it."""
        if not is_accelerator(self.settings.device):
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
        """Number of lanes: as configured, or as many as are useful and fit."""
        if self.asked_lanes or not self.graphs or not is_accelerator(device):
            return self.asked_lanes or 1
        free = int(device_module(device).mem_get_info(device)[0])
        return max(1, min(LANES, free // (LANE_STATES * num_bytes(self.method.state_dict()))))

    def _waiting_bytes(self) -> int:
        """Bytes of results that may wait, at most a quarter of the memory of an accelerator."""
        device = self.settings.device
        if not is_accelerator(device):
            return WAITING_BYTES
        return min(WAITING_BYTES, int(device_module(device).mem_get_info(device)[1]) // 4)


class CohortModule(LightningModule):
    """A cohort as Lightning sees it: an epoch, in which a batch is a client.

    Args:
        executor: Executor with the lanes.
        shared: Shared state that the clients start from.
        clients: Personal states of the clients.
        tasks: Tasks of the cohort.
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
        self.done: dict[int, Trained | ClientFailure] = {}
        """Trained clients and failures, by position of the task."""
        self._lanes: dict[Lane, int] = {}

    def configure_optimizers(self) -> None:
        """None: every lane has its own."""

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Let the lanes do one step each in turn, until one more client is trained."""
        # Lightning's autocast spans many steps here, in which weights change: it must not cache cast weights.
        if torch.is_autocast_enabled(self.device.type):
            torch.set_autocast_cache_enabled(False)
        try:
            with default_dtype(torch.float32):  # data and clients are made outside of a step elsewhere
                if not self._lanes:
                    self._lanes = dict.fromkeys(self.executor.open(self.shared, self.clients, self.tasks), -1)
                while len(self.done) <= batch_idx:
                    for lane in self._lanes:
                        self._turn(lane)
        except torch.OutOfMemoryError as error:
            problem, remedy = "do not fit in the device's memory", "Ask for fewer, or for a smaller data.batch_size."
            fatal = ConfigError("trainer.executor.lanes", len(self.executor.lanes), problem, remedy)
            self.executor.broken = fatal
            raise fatal from error
        except CaptureError as error:
            self.executor.broken = error
            raise

    def on_train_end(self) -> None:
        """Wait until all results are there."""
        with self.executor.watchdog.watching():
            wait_for(self.executor.settings.device)

    def let_go(self) -> None:
        """Drop lanes and results: module and trainer refer to each other, and the cycle would keep GPU memory alive."""
        self._lanes.clear()
        self.done.clear()

    def _turn(self, lane: Lane) -> None:
        if lane.idle:
            if not self.todo:
                return
            self._lanes[lane] = position = self.todo.popleft()
            lane.submit(self.tasks[position], self.clients[self.tasks[position].client])
        done: Trained | ClientFailure | None
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
    """Batches for Lightning: a number for every client."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def obstacle(method: Method, settings: LocalSettings) -> str | None:
    """Reason why the cohort cannot be trained in one fit, if there is one."""
    if settings.precision not in PRECISIONS:
        return f"trains in {', '.join(PRECISIONS)}, but the precision is {settings.precision}"
    hook = overridden_hook(method, "configure_optimizers")
    return hook and f"does not call {hook}, which {type(method).__name__} overrides"


def _tf32() -> tuple[str, bool] | None:
    """Settings of products and convolutions; None if ``fp32_precision`` has values that these older names lack."""
    try:
        return torch.get_float32_matmul_precision(), bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def _outcome(done: Trained | ClientFailure) -> Outcome:
    """Result or failure; a result that is not finite is a failure."""
    if isinstance(done, ClientFailure):
        return done
    result = done.result()
    reason = not_finite(result)
    return ClientFailure(result.update.client, reason) if reason else result
