"""The training of one client, which all executors share."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities import registry
from lightning.pytorch.profilers import SimpleProfiler

from fedloge.executors.base import ClientFailure, ClientResult, ClientTask, FederatedData, LocalSettings, Outcome
from fedloge.federation.seeding import Stream, derive
from fedloge.federation.state import ClientUpdate, SharedState, Tensors
from fedloge.methods.base import Batch, Client, Method
from fedloge.system.profiling import Profile, fit_seconds

# For callbacks that installed packages may bring, every Trainer reads the metadata of all packages, which takes longer
# than the rest of a short fit. What is installed does not change meanwhile: once is enough.
if hasattr(registry, "entry_points"):
    registry.entry_points = functools.cache(registry.entry_points)


def attempt_client(
    method: Method,
    data: FederatedData,
    settings: LocalSettings,
    task: ClientTask,
    shared: SharedState,
    personal: Tensors,
) -> Outcome:
    """:func:`train_client`, where an error and a result that is not finite become a :class:`ClientFailure`."""
    reason = details = ""
    for _ in range(settings.attempts):
        try:
            result = train_client(method, data, settings, task, shared, personal)
        except Exception as error:
            reason, details = f"{type(error).__name__}: {error}", traceback.format_exc()
        else:
            reason = not_finite(result)
            if not reason:
                return result
    return ClientFailure(task.client, reason, details)


def not_finite(result: ClientResult) -> str:
    """What in a result is NaN or infinite; empty where all is well. One check per tensor, after the training."""
    parts = {"update": result.update.tensors, "report": result.update.report, "personal state": result.personal}
    for part, tensors in parts.items():
        floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        if not floating:
            continue
        finite = torch.stack([tensor.isfinite().all() for tensor in floating.values()])
        if not bool(finite.all()):
            name = next(name for name, ok in zip(floating, finite.tolist(), strict=True) if not ok)
            return f"{name} in its {part} is not finite"
    return ""


def train_client(
    method: Method,
    data: FederatedData,
    settings: LocalSettings,
    task: ClientTask,
    shared: SharedState,
    personal: Tensors,
) -> ClientResult:
    """Train one client from the state it received: a Lightning fit per phase.

    The result depends on the arguments alone: data order and augmentation come from (seed, round, client), and
    torch's global generators, which dropout reads, are seeded from them too and restored afterwards.
    """
    client = Client(task.client, tuple(map(int, data.client_counts(task.client))), task.round)
    phases = {number: phase for number, phase in enumerate(task.phases) if phase.epochs}

    def batches() -> Iterable[Any]:
        return data.client_batches(client.id, settings.device)

    profile = Profile()
    with _isolated_random_state(derive(settings.seed, task.round, task.client, Stream.MODULE)):
        method.begin(client, shared, personal)
        report = _on_host(measure(method, "report_received", batches, settings.device))
        for number, phase in phases.items():
            method.begin_phase(phase)
            loader = data.client_loader(task.client, seed=settings.seed, round=task.round, phase=number)
            with quiet_lightning(), interrupts_as_usual():
                profile.add(_fit(local_trainer(settings, phase.epochs), method, loader))
        report = {**report, **_on_host(measure(method, "report_trained", batches, settings.device))}
    kept = {name for phase in phases.values() for name in phase.keep}
    own = {name: tensor.clone() for name, tensor in method.personal_entries(kept).items()}
    return ClientResult(_update(method, client, report, profile.seconds), own)


def _fit(trainer: Trainer, method: Method, loader: Any) -> dict[str, float]:
    """Fit, and tell how long the parts took if the trainer has a profiler."""
    began = time.perf_counter()
    trainer.fit(method, loader)
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(profiler, SimpleProfiler):
        return {}
    return fit_seconds(profiler, type(trainer.strategy).__name__, time.perf_counter() - began)


def local_trainer(settings: LocalSettings, epochs: int) -> Trainer:
    """A minimal Trainer for one fit; a used one would train nothing once ``max_epochs`` is reached."""
    return Trainer(
        max_epochs=epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        profiler=SimpleProfiler() if settings.profile else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


@torch.no_grad()
def measure(method: Method, hook: str, batches: Callable[[], Iterable[Any]], device: torch.device) -> Tensors:
    """What a client reports before or after its training, on the device; nothing where the method has no such hook.

    Args:
        method: The client's.
        hook: ``report_received`` or ``report_trained``.
        batches: Gives the client's images in order, on the device.
        device: Where.
    """
    if getattr(type(method), hook) is getattr(Method, hook):
        return {}
    method.to(device).eval()
    report: Tensors = getattr(method, hook)(Converted(batches(), next(method.parameters()).dtype))
    return report


@dataclass(frozen=True)
class Converted:
    """Batches whose images have another type: not float32 where Lightning's precision is "true" to another."""

    batches: Iterable[Batch]
    dtype: torch.dtype

    def __iter__(self) -> Iterator[Batch]:
        return ((images.to(self.dtype), labels) for images, labels in self.batches)


def _on_host(tensors: Tensors) -> Tensors:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _update(method: Method, client: Client, report: Tensors, seconds: Mapping[str, float]) -> ClientUpdate:
    return ClientUpdate(
        client=client.id,
        tensors=method.shared_state().tensors,
        num_examples=client.num_examples,
        class_counts=client.class_counts,
        metrics=method.local_metrics(),
        seconds=seconds,
        report=report,
    )


@contextlib.contextmanager
def _isolated_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def interrupts_as_usual() -> Iterator[None]:
    """Ctrl-C in a fit makes Lightning ignore all further ones and leave with SystemExit; undo both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep a Trainer's own messages out of the terminal: four lines per local fit would drown the run's."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # A client's loader is a plain iterable: advice about DataLoader workers does not apply to it.
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
