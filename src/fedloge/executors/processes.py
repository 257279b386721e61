"""One client per core: persistent worker processes, one thread each."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from fedloge.checks import check_threads
from fedloge.errors import ConfigError, RunError
from fedloge.executors.base import (
    ClientFailure,
    ClientResult,
    ClientTask,
    Executor,
    FederatedData,
    LocalSettings,
    Outcome,
    largest_first,
)
from fedloge.executors.client import attempt_client
from fedloge.executors.shared_memory import (
    NO_ROOM,
    NOT_FOUND,
    SHARED_MEMORY,
    UNGUARDED,
    Layout,
    Slab,
    bytes_down,
    bytes_of_worker,
    room_for_workers,
)
from fedloge.federation.state import ClientStore, SharedState, Tensors, num_bytes
from fedloge.methods.base import Method
from fedloge.system.cpu import configure_cpu
from fedloge.system.interrupts import end_with_parent, forkserver_context
from fedloge.system.output import lenient_output

WAITING_BYTES = 2**30
"""Memory for results that wait for their turn; at least four per worker may wait."""
MAX_ATTEMPTS = 3


class Processes(Executor):
    """Workers that live as long as the run, each with the data in shared memory and its own module.

    States travel through shared memory. The largest client is trained first. A worker that dies is replaced and its
    client trained again, with the same result.

    Args:
        workers: Number of workers; None takes one per core that this process may use.

    Raises:
        ConfigError: If ``workers`` is not between 1 and 1024.
    """

    fixed_workers = True

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None:
            check_threads("trainer.executor.workers", workers)  # this process evaluates with as many threads
        if workers is not None and workers > num_cores():
            warnings.warn(f"trainer.executor.workers={workers} is more than the {num_cores()} cores here", stacklevel=2)
        self._workers = workers or num_cores()
        self._pool: list[_Worker] = []
        self._down: Slab | None = None

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return self._workers

    @property
    def idle_cores(self) -> int:
        """One core per worker, as far as there are so many."""
        return min(self._workers, num_cores())

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Set method, data and settings; workers start with the first round."""
        if settings.device.type != "cpu":
            problem = f"trains on CPU cores, but the device is {settings.device}"
            raise ConfigError("trainer.executor", "processes", problem, "Take serial, or --trainer.accelerator=cpu.")
        room = room_for_workers(method, data)
        if room < self.workers:
            warnings.warn(f"{SHARED_MEMORY} has room for {room} of {self.workers} workers. {NO_ROOM}", stacklevel=2)
            self._workers = room
        super().start(method, data, settings)

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the outcome of every task in order."""
        self._open(min(self.workers, len(tasks)))
        assert self._down is not None
        shared = self.method.broadcast(shared)
        layout = self._down.pack({**shared.tensors, **shared.fixed})
        fixed = tuple(shared.fixed)
        sizes = [sum(self.data.client_counts(task.client)) * sum(p.epochs for p in task.phases) for task in tasks]
        busy: dict[int, _Worker] = {}

        def idle() -> _Worker | None:
            return next((worker for worker in self._pool if worker not in busy.values()), None)

        def submit(worker: _Worker, position: int) -> None:
            busy[position] = worker
            own = worker.slab.pack(clients[tasks[position].client])
            with contextlib.suppress(BrokenPipeError):  # it died while it waited: noticed when its answer is awaited
                worker.pipe.send(_Order(tasks[position], layout, fixed, own))

        def collect() -> tuple[int, Outcome]:
            by_pipe: dict[Any, int] = {worker.pipe: position for position, worker in busy.items()}
            pipe: Any = wait(by_pipe)[0]
            position = by_pipe[pipe]
            try:
                answer: _Answer | ClientFailure | _Failure = pipe.recv()
            except (EOFError, OSError):
                worker = busy.pop(position)
                failure = self._replace(worker, tasks[position])
                if failure is not None:
                    return position, failure
                submit(worker, position)
                return collect()
            worker = busy.pop(position)
            worker.attempts = 0
            if isinstance(answer, _Failure):
                raise RunError(f"client {tasks[position].client} failed in a worker:\n{answer.text}")
            return position, worker.read(answer) if isinstance(answer, _Answer) else answer

        window = max(4 * len(self._pool), WAITING_BYTES // max(num_bytes(shared.tensors), 1))
        try:
            yield from largest_first(tasks, sizes, window, idle, submit, collect)
        finally:
            if busy:  # the round was stopped in the middle
                self.close()

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._pool:
            worker.stop()
        self._pool, self._down = [], None

    def _open(self, count: int) -> None:
        packed, new = _packed(self.method) if len(self._pool) < count else b"", []
        with self._clear_errors():
            if self._down is None:
                self._down = Slab(bytes_down(self.method))
            while len(self._pool) < count:
                new.append(_Worker(bytes_of_worker(self.method)))
                self._pool.append(new[-1])
            for worker in new:  # all of them start at the same time
                self._equip(worker, packed)
        for worker in new:
            if not self._is_ready(worker):
                code = worker.exit_code()
                self.close()
                raise RunError(f"a worker ended when it started (exit code {code}). {UNGUARDED}")

    def _equip(self, worker: _Worker, packed: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # it ended: noticed when it is asked whether it is ready
            worker.pipe.send_bytes(packed)
            worker.pipe.send((self.data, self.settings, self._down, worker.slab))

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Report in one line that the system refuses open files, processes or memory."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self.close()
            problem = f"cannot be started: {error}"
            remedy = "Take fewer, or serial; or allow more (ulimit -n, docker run --shm-size)."
            raise ConfigError("trainer.executor.workers", self.workers, problem, remedy) from error

    def _is_ready(self, worker: _Worker) -> bool:
        """Wait until a worker has received method and data; False if it has ended instead."""
        try:
            failure: _Failure | None = worker.pipe.recv()
        except (EOFError, OSError):
            return False
        if failure is not None:
            self.close()
            raise RunError(failure.text)
        return True

    def _replace(self, worker: _Worker, task: ClientTask) -> ClientFailure | None:
        """Restart a worker; a client whose workers died too often is a failure."""
        ready, packed = False, _packed(self.method)
        while not ready and worker.attempts < MAX_ATTEMPTS:
            worker.attempts += 1
            code = worker.exit_code()
            worker.stop()
            with self._clear_errors():
                worker.open()
                self._equip(worker, packed)
            ready = self._is_ready(worker)
        if worker.attempts < MAX_ATTEMPTS:
            return None
        worker.attempts = 0
        return ClientFailure(task.client, f"its worker died {MAX_ATTEMPTS} times (exit code {code}): out of memory?")


@dataclass(frozen=True)
class _Order:
    """A task, and the layout of its tensors in the slab of all workers and in the worker's own."""

    task: ClientTask
    shared: Layout
    fixed: tuple[str, ...]
    personal: Layout


@dataclass(frozen=True)
class _Answer:
    """A result without its tensors, which are in the worker's slab, or in ``tensors`` if they did not fit."""

    result: ClientResult
    layout: Layout | None
    tensors: Tensors | None


@dataclass(frozen=True)
class _Failure:
    text: str


class _Worker:
    """A process, the pipe to it, and the memory shared with it."""

    def __init__(self, nbytes: int) -> None:
        self.attempts = 0
        self.slab = Slab(nbytes)
        self.open()

    def open(self) -> None:
        """Start the process."""
        context = forkserver_context(["fedloge.config"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def read(self, answer: _Answer) -> ClientResult:
        """The result with its tensors, copied out of the shared memory."""
        if answer.layout is not None:
            tensors = {name: tensor.clone() for name, tensor in self.slab.unpack(answer.layout).items()}
        else:
            assert answer.tensors is not None
            tensors = dict(answer.tensors)
        parts: dict[str, dict[str, Tensor]] = {"u": {}, "p": {}, "r": {}}
        for name, tensor in tensors.items():
            part, _, entry = name.partition("/")
            parts[part][entry] = tensor
        update = replace(answer.result.update, tensors=parts["u"], report=parts["r"])
        return ClientResult(update, parts["p"])

    def exit_code(self) -> int | None:
        """Exit code of a process that has ended or is about to."""
        self.process.join(timeout=5)
        code: int | None = self.process.exitcode
        return code

    def stop(self) -> None:
        """Kill the process."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.kill()  # a worker keeps no state; in a fit, Lightning would handle a milder signal
        self.process.join()


def _work(pipe: Any) -> None:
    """Main function of a worker: receive method and data, then train the tasks from the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where no server of forks blocks it: the parent handles Ctrl-C
    end_with_parent()
    with lenient_output(), contextlib.suppress(EOFError, OSError, KeyboardInterrupt, SystemExit):
        packed, rest = pipe.recv_bytes(), pipe.recv_bytes()
        try:
            method: Method = torch.load(io.BytesIO(packed), weights_only=False)
            data, settings, down, slab = ForkingPickler.loads(rest)
        except Exception as error:
            remedy = NOT_FOUND if isinstance(error, (ImportError, AttributeError)) else "Take serial."
            pipe.send(_Failure(f"a worker cannot load method or data: {type(error).__name__}: {error}. {remedy}"))
            return
        configure_cpu(settings.threads)
        pipe.send(None)
        while True:
            order: _Order = pipe.recv()
            try:
                answer: _Answer | ClientFailure | _Failure = _train(method, data, settings, down, slab, order)
            except Exception:
                answer = _Failure(traceback.format_exc())
            pipe.send(answer)


def _train(
    method: Method, data: FederatedData, settings: LocalSettings, down: Slab, slab: Slab, order: _Order
) -> _Answer | ClientFailure:
    entries = down.unpack(order.shared)
    fixed = {name: entries.pop(name) for name in order.fixed}
    personal = {name: tensor.clone() for name, tensor in slab.unpack(order.personal).items()}
    result = attempt_client(method, data, settings, order.task, SharedState(entries, fixed), personal)
    if isinstance(result, ClientFailure):
        return result
    parts = {"u": result.update.tensors, "p": result.personal, "r": result.update.report}
    tensors = {f"{part}/{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
    bare = ClientResult(replace(result.update, tensors={}, report={}), {})
    try:
        return _Answer(bare, slab.pack(tensors), None)
    except ValueError:
        return _Answer(bare, None, tensors)


def _packed(method: Method) -> bytes:
    """A method as plain bytes, since every tensor in shared memory is an open file."""
    buffer = io.BytesIO()
    with method.without_server_entries():
        torch.save(method, buffer)
    return buffer.getvalue()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
