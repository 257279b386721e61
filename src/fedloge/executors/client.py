"""The training of one client, which all executors share."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities import registry
from lightning.pytorch.core.hooks import ModelHooks
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor

from fedloge.data.loader import BatchLoader
from fedloge.executors.base import ClientFailure, ClientResult, ClientTask, FederatedData, LocalSettings, Outcome
from fedloge.federation.flat import buffers
from fedloge.federation.seeding import Stream, derive
from fedloge.federation.state import ClientUpdate, SharedState, Tensors
from fedloge.methods.base import Batch, Client, Epoch, Method
from fedloge.system.one_process import one_process
from fedloge.system.profiling import Profile, fit_seconds

# Every Trainer reads the metadata of all installed packages to find callbacks that they register, which takes longer
# than the rest of a short fit. Installed packages do not change meanwhile, so read them once.
if hasattr(registry, "entry_points"):
    registry.entry_points = functools.cache(registry.entry_points)


@dataclass(frozen=True)
class Trained:
    """A trained client, its tensors in host memory or on their way there; the shared entries may be on the device.

    Args:
        client: The client.
        shared: Its shared entries.
        personal: Its personal entries.
        loss_sums: Local losses by name, summed over ``examples``.
        examples: Number of examples trained on, over all epochs.
        report: Further tensors for the server.
        seconds: Seconds of the parts of the local fit, if the run is profiled.
    """

    client: Client
    shared: Tensors
    personal: Tensors
    loss_sums: Tensors
    examples: int
    report: Tensors
    seconds: Mapping[str, float] = field(default_factory=dict)

    def result(self) -> ClientResult:
        """Update and personal state; call it when the tensors have arrived in host memory."""
        means = {name: float(total) / self.examples for name, total in self.loss_sums.items()}
        update = ClientUpdate(
            client=self.client.id,
            tensors=self.shared,
            num_examples=self.client.num_examples,
            class_counts=self.client.class_counts,
            metrics={"loss": sum(means.values()), **means},
            seconds=self.seconds,
            report=self.report,
        )
        # The store keeps personal entries for long: not as views of a larger buffer.
        return ClientResult(update, {name: tensor.clone() for name, tensor in self.personal.items()})


def on_host(tensors: Tensors) -> Tensors:
    """Copies in host memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


class LocalTraining:
    """Training of one client in one round: :meth:`begin`, steps (:meth:`Method.local_step`), :meth:`finish`.

    Args:
        method: Module to train.
        data: Data of all clients.
        seed: Run seed.
        task: Client, round and phases.
        device: Device of the training.
        batches: Function that returns the client's training images in order; None takes those of ``data``.
        copied: Function that copies tensors to host memory.
        sent: Function that copies the shared entries, which may stay on the device; ``copied`` by default.
    """

    def __init__(
        self,
        method: Method,
        data: FederatedData,
        seed: int,
        task: ClientTask,
        device: torch.device,
        batches: Callable[[], Iterable[Any]] | None = None,
        copied: Callable[[Tensors], Tensors] = on_host,
        sent: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        self.method, self.device, self._only_surveyed = method, device, not task.phases
        self.phases = {number: phase for number, phase in enumerate(task.phases) if phase.epochs}
        self.random_seed = derive(seed, task.round, task.client, Stream.MODULE)
        self._loader = functools.partial(data.client_loader, task.client, seed=seed, round=task.round)
        loader, counts = self._loader(), tuple(map(int, data.client_counts(task.client)))
        steps = sum(phase.epochs for phase in task.phases) * operator.length_hint(loader)
        size = loader.settings.batch_size if isinstance(loader, BatchLoader) else 0
        self.client = Client(task.client, counts, task.round, steps, size)
        self._batches = batches or (lambda: data.client_batches(task.client, device))
        self._copied, self._sent = copied, sent or copied
        self._report: Tensors = {}

    def loader(self, phase: int = 0) -> Any:
        """Loader of a phase; every iteration over it is the next local epoch."""
        loader = self._loader(phase=phase)
        if self.method.indexed:
            loader.indexed = True
        return loader

    def begin(self, shared: SharedState, personal: Tensors) -> None:
        """Load the received state, measure what the method reports of it, and let it prepare the training."""
        self.method.begin(self.client, shared, personal)
        self._report = self._measured("survey" if self._only_surveyed else "report_received")
        if not self._only_surveyed:
            self._measured("before_training")

    def finish(self, loss_sums: Tensors, examples: int) -> Trained:
        """Conclude the training, measure what the method reports, and copy all that leaves the module."""
        if self._only_surveyed:
            return Trained(self.client, {}, {}, {}, 0, self._report)
        self._measured("after_training")
        report = {**self._report, **self._measured("report_trained")}
        entries = self.method.state_dict().items()
        shared = {name: entry for name, entry in entries if self.method.is_shared(name)}
        kept = self.method.personal_entries({name for phase in self.phases.values() for name in phase.keep})
        personal, copied = {**kept, **self.method.notes()}, self._copied
        return Trained(self.client, self._sent(shared), copied(personal), copied(loss_sums), examples, report)

    @torch.no_grad()
    def _measured(self, hook: str) -> Tensors:
        """Call a hook with the client's images if the method has it; returns copies of the tensors it reports."""
        if getattr(type(self.method), hook) is getattr(Method, hook):
            return {}
        self.method.to(self.device).eval()
        self.method.on_fit_start()
        batches = Converted(self._batches(), next(self.method.parameters()).dtype)
        with torch.autocast(self.device.type, enabled=False):
            report: Tensors | None = getattr(self.method, hook)(batches)
        return self._copied(report or {})


@dataclass(frozen=True)
class Converted:
    """Batches whose images are converted to another type, which is not float32 if Lightning's precision is "true".

    Args:
        batches: Batches of images and labels.
        dtype: Type of the module's parameters.
    """

    batches: Iterable[Batch]
    dtype: torch.dtype

    def __iter__(self) -> Iterator[Batch]:
        return ((images.to(self.dtype), labels) for images, labels in self.batches)


def attempt_client(
    method: Method,
    data: FederatedData,
    settings: LocalSettings,
    task: ClientTask,
    shared: SharedState,
    personal: Tensors,
) -> Outcome:
    """:func:`train_client`, with a :class:`ClientFailure` for an error or a result that is not finite."""
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
    """Name the first tensor of a result that has NaN or infinite entries; empty if all are finite."""
    parts = {"update": result.update.tensors, "report": result.update.report, "personal state": result.personal}
    for part, tensors in parts.items():
        if not all_finite(buffers(tensors).values()):
            name = next(name for name, tensor in tensors.items() if not all_finite([tensor]))
            return f"{name} in its {part} is not finite"
    return ""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor has NaN or infinite entries, from the least and greatest entry, to which NaN spreads."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    ends = [end for tensor in floating for end in torch.aminmax(tensor)]
    return not ends or bool(torch.stack(ends).isfinite().all())


def train_client(
    method: Method,
    data: FederatedData,
    settings: LocalSettings,
    task: ClientTask,
    shared: SharedState,
    personal: Tensors,
) -> ClientResult:
    """Train one client from the state it received: a Lightning fit per phase.

    The result depends on the arguments alone. Data order and augmentation follow from (seed, round, client), and so
    does the seed of torch's global generators, which dropout reads and which are restored afterwards.
    """
    training = LocalTraining(method, data, settings.seed, task, settings.device)
    profile = Profile()
    with _isolated_random_state(training.random_seed):
        training.begin(shared, personal)
        for number, phase in training.phases.items():
            method.begin_phase(phase)
            profile.add(_fit(settings, method, phase.epochs, training.loader(phase=number)))
        trained = training.finish(method.loss_sums, method.examples)
    return replace(trained, seconds=profile.seconds).result()


def _fit(settings: LocalSettings, method: Method, epochs: int, loader: Iterable[Any]) -> dict[str, float]:
    """Fit with Lightning; returns the seconds of its parts if the run is profiled."""
    began = time.perf_counter()
    with quiet_lightning(), interrupts_as_usual():
        trainer = local_trainer(settings, epochs)
        profiler = trainer.profiler if settings.profile else None  # type: ignore[attr-defined]
        whole = settings.precision == "32-true" and overridden_hook(method) is None
        trainer.fit(method, Epochs(loader, profiler) if whole else loader)
    return fit_seconds(profiler, type(trainer.strategy).__name__, time.perf_counter() - began) if profiler else {}


class Epochs:
    """Loader that yields whole epochs, so that Lightning's work per batch is done once per epoch.

    Args:
        loader: Loader of a client; every iteration over it is the next epoch.
        profiler: Lightning profiler for the time that batches take, if any.
    """

    def __init__(self, loader: Iterable[Any], profiler: SimpleProfiler | None = None) -> None:
        self._epoch = Epoch(loader, profiler)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Epoch]:
        yield self._epoch


def overridden_hook(method: Method, *more: str) -> str | None:
    """The first of Lightning's hooks around a batch, or of some more, that the class of the method overrides."""
    for name in ("training_step", *more, *vars(ModelHooks), "backward", "manual_backward", "optimizers"):
        if not name.startswith("__") and getattr(type(method), name) is not getattr(Method, name):
            return name
    return None


def local_trainer(settings: LocalSettings, epochs: int) -> Trainer:
    """A minimal Trainer for one fit; a used one would train nothing once ``max_epochs`` is reached."""
    with one_process() as alone:
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
            **alone,
        )


@contextlib.contextmanager
def _isolated_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def interrupts_as_usual() -> Iterator[None]:
    """After Ctrl-C in a fit, Lightning ignores all further ones and raises SystemExit; undo both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence the messages of a Trainer: four lines per local fit would drown those of the run."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The loader of a client is a plain iterable: advice about DataLoader workers does not apply to it.
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
