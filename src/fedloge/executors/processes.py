"""One client per core: persistent worker processes, one thread each."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor, multiprocessing

from fedloge.checks import check_least
from fedloge.cpu import configure_cpu
from fedloge.errors import ConfigError, RunError
from fedloge.executors.base import (
    ClientFailure,
    ClientResult,
    ClientTask,
    Executor,
    FederatedData,
    LocalSettings,
    Outcome,
    attempt_client,
    largest_first,
)
from fedloge.methods.base import Method
from fedloge.state import ClientStore, SharedState, Tensors, num_bytes

WAITING_BYTES = 2**30
"""Results that wait for their turn may take this much memory, but at least four a worker may wait."""
SPARE_BYTES = 2**20
MAX_ATTEMPTS = 3
UNGUARDED = "Each runs a script that trains once more: put what the script does under if __name__ == '__main__'."
NOT_FOUND = "Define the classes of method and data in a module, not in a notebook or function; or take serial."
ALIGNMENT = 16


class Processes(Executor):
    """Workers that live as long as the run, each with the data in shared memory and a module of its own.

    States travel through shared memory. The largest client is trained first. A worker that dies is replaced and its
    client trained again, with the same result.

    Args:
        workers: How many; None takes one per core that this process may use.

    Raises:
        ConfigError: If ``workers`` is below 1.
    """

    def __init__(self, workers: int | None = None) -> None:
        check_least("trainer.executor.workers", workers, 1)
        if workers is not None and workers > num_cores():
            warnings.warn(f"trainer.executor.workers={workers} is more than the {num_cores()} cores here", stacklevel=2)
        self.workers = workers or num_cores()
        self._pool: list[_Worker] = []
        self._down: Slab | None = None

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Take what is trained; workers start with the first round."""
        if settings.device.type != "cpu":
            problem = f"trains on CPU cores, but the device is {settings.device}"
            raise ConfigError("trainer.executor", "processes", problem, "Take serial, or --trainer.accelerator=cpu.")
        super().start(method, data, settings)

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the result of every task in order."""
        self._open(min(self.workers, len(tasks)))
        assert self._down is not None
        layout = self._down.pack({**shared.tensors, **shared.fixed})
        fixed = tuple(shared.fixed)
        sizes = [sum(self.data.client_counts(task.client)) * sum(p.epochs for p in task.phases) for task in tasks]
        busy: dict[int, _Worker] = {}

        def idle() -> _Worker | None:
            return next((worker for worker in self._pool if worker not in busy.values()), None)

        def submit(worker: _Worker, position: int) -> None:
            busy[position] = worker
            own = worker.slab.pack(clients[tasks[position].client])
            with contextlib.suppress(BrokenPipeError):  # it died while it waited: seen when its answer is awaited
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
            if busy:  # somebody stopped in the middle of the round
                self.close()

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._pool:
            worker.stop()
        self._pool, self._down = [], None

    def _open(self, count: int) -> None:
        state = self.method.state_dict()
        if self._down is None:
            self._down = Slab(num_bytes(state), len(state))
        new = [_Worker(num_bytes(state), len(state)) for _ in range(len(self._pool), count)]
        self._pool += new
        for worker in new:  # all of them start at the same time
            self._equip(worker)
        for worker in new:
            if not self._is_ready(worker):
                code = worker.exit_code()
                self.close()
                raise RunError(f"a worker ended when it started (exit code {code}). {UNGUARDED}")

    def _equip(self, worker: _Worker) -> None:
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended: seen when it is asked whether it is ready
                worker.pipe.send((self.method, self.data, self.settings, self._down, worker.slab))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.close()
            problem = f"cannot send method or data to a worker: {error}"
            raise ConfigError("trainer.executor", "processes", problem, NOT_FOUND) from error

    def _is_ready(self, worker: _Worker) -> bool:
        """Wait until a worker has what it was sent; False if it has ended instead."""
        try:
            failure: _Failure | None = worker.pipe.recv()
        except (EOFError, OSError):
            return False
        if failure is not None:
            self.close()
            raise RunError(failure.text)
        return True

    def _replace(self, worker: _Worker, task: ClientTask) -> ClientFailure | None:
        """Start a worker anew; a client that has cost too many of them is a failure."""
        ready = False
        while not ready and worker.attempts < MAX_ATTEMPTS:
            worker.attempts += 1
            code = worker.exit_code()
            worker.stop()
            worker.open()
            self._equip(worker)
            ready = self._is_ready(worker)
        if worker.attempts < MAX_ATTEMPTS:
            return None
        worker.attempts = 0
        return ClientFailure(task.client, f"its worker died {MAX_ATTEMPTS} times (exit code {code}): out of memory?")


@dataclass(frozen=True)
class _Order:
    """A task, and where its tensors are: (name, dtype, shape, offset) in the shared slab and in the worker's own."""

    task: ClientTask
    shared: Layout
    fixed: tuple[str, ...]
    personal: Layout


@dataclass(frozen=True)
class _Answer:
    """A result without its tensors: they are in the worker's slab, or, where they did not fit, with it."""

    result: ClientResult
    layout: Layout | None
    tensors: Tensors | None


@dataclass(frozen=True)
class _Failure:
    text: str


class _Worker:
    """A process, the pipe to it, and the memory shared with it."""

    def __init__(self, nbytes: int, entries: int) -> None:
        self.attempts = 0
        self.slab = Slab(2 * nbytes + SPARE_BYTES, 2 * entries)
        self.open()

    def open(self) -> None:
        """Start the process."""
        context = _context()
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
        """Of a process that has ended, or is about to."""
        self.process.join(timeout=5)
        code: int | None = self.process.exitcode
        return code

    def stop(self) -> None:
        """End the process, whatever it does."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.kill()  # a worker keeps nothing; in a fit, Lightning would answer to a milder signal
        self.process.join()


Layout = tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]


class Slab:
    """Shared memory that named tensors are packed into.

    Args:
        nbytes: Of all tensors together.
        count: How many tensors, each of which may lose some bytes to alignment.
    """

    def __init__(self, nbytes: int, count: int) -> None:
        self.bytes: Tensor = torch.empty(nbytes + ALIGNMENT * count, dtype=torch.uint8)
        self.bytes.share_memory_()  # type: ignore[no-untyped-call]

    def pack(self, tensors: Tensors) -> Layout:
        """Copy tensors in; returns where they are.

        Raises:
            ValueError: If they do not fit.
        """
        layout, offset = [], 0
        for name, tensor in tensors.items():
            end = offset + tensor.numel() * tensor.element_size()
            if end > len(self.bytes):
                raise ValueError(f"{end} bytes do not fit into {len(self.bytes)}")
            self._view(tensor.dtype, tensor.shape, offset).copy_(tensor)
            layout.append((name, tensor.dtype, tuple(tensor.shape), offset))
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        return tuple(layout)

    def unpack(self, layout: Layout) -> dict[str, Tensor]:
        """Views of the tensors; the next :meth:`pack` overwrites them."""
        return {name: self._view(dtype, shape, offset) for name, dtype, shape, offset in layout}

    def _view(self, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        view: Tensor = self.bytes[offset : offset + nbytes].view(dtype).view(tuple(shape))
        return view


def _work(pipe: Any) -> None:
    """A worker's life: take method and data, then train what comes through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with contextlib.suppress(EOFError, OSError):
        try:
            method, data, settings, down, slab = pipe.recv()
        except (ImportError, AttributeError) as error:
            pipe.send(_Failure(f"{error}. {NOT_FOUND}"))
            return
        configure_cpu(settings.threads)
        method = copy.deepcopy(method)  # the received one may share memory with the parent's
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


def _context() -> Any:
    """Processes that do not inherit threads; where the platform has it, from a server that imported torch already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedloge.config"])
    return context


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
