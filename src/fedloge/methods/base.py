"""Base class of federated methods: a LightningModule whose hooks default to FedAvg."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.profilers import Profiler
from torch import Tensor, nn

from fedloge.checks import check_choice, check_not_negative
from fedloge.errors import ConfigError
from fedloge.federation.aggregation import weighted_mean
from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, SharedState, Tensors
from fedloge.models.base import Backbone
from fedloge.models.batchnorm import running_statistics
from fedloge.system.devices import copy_into, upload

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, channels, H, W], normalised, and labels int64 [n]."""

IndexedBatch = tuple[Tensor, Tensor, Tensor]
"""A batch, and the positions of its examples among those of the client, int64 [n]."""

View = Literal["global", "personal"]
"""One of the 1 + K models: the generic model (``global``), or that of the client whose personal state is loaded."""


@dataclass(frozen=True)
class Phase:
    """A part of the local training, with its own optimiser.

    Args:
        name: Name of the phase, which :meth:`Method.local_losses` can read as ``self.phase.name``.
        epochs: Number of local epochs.
        trainable: Submodules to train (dotted prefixes). All others are left out of the optimiser and run in eval
            mode, so that their BatchNorm statistics do not change either. None trains all but the fixed entries.
        keep: Submodules whose trained version the client keeps for its personal model, in place of the shared or fixed
            one; its next training starts from the received version again.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Client:
    """A client; what follows the class counts is known during local training.

    Args:
        id: Number of the client, 0 … K-1.
        class_counts: Class counts n_{k,c} of its training examples.
        round: Current round.
        steps: Number of local steps of the round, over all phases.
        batch_size: Size of a batch; the last one of an epoch may differ.
        memory: What the client remembers beside its personal entries: the submodules that it kept in its last training
            (``Phase.keep``), by the names of their entries, and notes, tensors of any shape under names that begin with
            ``note/``. A method may add and replace notes before and after the training.
    """

    id: int
    class_counts: tuple[int, ...]
    round: int = 0
    steps: int = 0
    batch_size: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict, compare=False)

    @property
    def num_examples(self) -> int:
        """Number of training examples, n_k."""
        return sum(self.class_counts)


Knowledge = Literal["class_counts", "auxiliary"]
"""Privileged knowledge of a server: the class counts N_c of all clients together; a labelled set of its own."""


@dataclass(frozen=True)
class ServerData:
    """Privileged knowledge of the server; empty except for what the method declares in ``Method.privileged``.

    Args:
        class_counts: Class counts N_c of all training images, length C.
        auxiliary: Balanced training images that the server holds, without augmentation.
    """

    class_counts: tuple[int, ...] | None = None
    auxiliary: Batch | None = None


class TrainClients(Protocol):
    """All clients after the last round, for :meth:`Method.finalize`."""

    def __call__(self, state: FederatedState, phases: Sequence[Phase], /) -> ClientStore:
        """Run phases on every client from a state; returns their new personal states."""
        ...

    def survey(self, state: FederatedState) -> Iterable[ClientUpdate]:
        """What :meth:`Method.survey` reports of a state, from every client."""
        ...


NOTE, SENT = "note/", "sent/"
"""Prefixes of names that are no entries: of a client's notes, and of what the server sends to it alone."""


class Epoch:
    """A local epoch in the place of a batch, so that Lightning does nothing between two steps.

    Args:
        loader: The client's loader; every iteration over it is the next epoch.
        profiler: Lightning profiler that records the time for batches as ``data``; None records nothing.
    """

    def __init__(self, loader: Iterable[Any], profiler: Profiler | None = None) -> None:
        self._loader, self.profiler = loader, profiler

    def batches(self, device: torch.device) -> Iterator[Any]:
        """Batches of the epoch on the device; a method, since Lightning looks into everything that is iterable."""
        batches = iter(self._loader)
        while True:
            with self.profiler.profile("data") if self.profiler else nullcontext():
                batch = move_data_to_device(next(batches, None), device)
            if batch is None:
                return
            yield batch


Backward = Callable[[Tensor], object]
Losses = Mapping[str, Tensor]
"""Scalar losses of a batch by name, each a mean over its examples."""


class Method(LightningModule):
    """Base class of all methods. A method overrides what its paper changed; everything else is FedAvg.

    The entries of ``state_dict`` (parameters and buffers) are of three kinds: *shared* entries travel and are
    averaged, *personal* entries stay with their client, *fixed* entries are made by the server. It makes them once
    before the first round, or in every :meth:`aggregate` if *renewed*; *server* entries never leave it.

    Args:
        backbone: Backbone θ, which maps images to features; the method trains a copy of it.
        num_classes: Number of classes C; the command line takes it from the data.
        lr: Learning rate of local SGD.
        momentum: Momentum of local SGD; the optimiser is new in every round, so momentum never crosses rounds.
        weight_decay: L2 penalty of local SGD.
        agg: Weights of the server's average: ``examples`` (n_k) or ``uniform``.

    Attributes:
        personal: Submodules whose entries stay with the client.
        fixed: Submodules whose entries the server makes once; broadcast before the first round.
        renewed: Submodules whose entries the server makes anew in every round; they travel down, never up.
        server: Submodules whose entries never leave the server.
        bodies: Submodules that compute :meth:`features`. A client with personal entries in one of them needs its own
            pass over the test images.
        indexed: Whether training batches have a third part, the position of each example among those of the client,
            int64 [n], in the order of the batches that the hooks before and after training get.
        views: The models that the method has.
        privileged: Privileged knowledge that the server needs; declared wherever results are shown.
        idle: Options that do nothing beside a value of another: ``{("option", value): ("idle option", ...)}``.
        needs_images: Whether the method changes the images themselves, so that features cannot stand in their place.
        finalized: Effect of :meth:`finalize` on the models, in one word for tables.
        advice: What to do if :meth:`finalize` lowers the accuracy of a model.
        server_data: Privileged knowledge of the server, set before :meth:`prepare`.
        anchor: Shared weights that all clients received (w^t), during local training.
        client: Client that is being trained, during local training.
        own_counts: Class counts n_{k,c} of that client, float32 [C] on the device. Losses should read this, since a
            step that reads ``client`` cannot be captured in a CUDA graph.
        phase: Current phase, during local training.
    """

    personal: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    renewed: ClassVar[tuple[str, ...]] = ()
    server: ClassVar[tuple[str, ...]] = ()
    bodies: ClassVar[tuple[str, ...]] = ("backbone",)
    indexed: ClassVar[bool] = False
    views: ClassVar[tuple[View, ...]] = ("global", "personal")
    privileged: ClassVar[tuple[Knowledge, ...]] = ()
    idle: ClassVar[Mapping[tuple[str, Any], Sequence[str]]] = {}
    needs_images: ClassVar[bool] = False
    finalized: ClassVar[str] = "fine-tuned"
    advice: ClassVar[str] = ""

    server_data: ServerData = ServerData()
    anchor: Tensors
    client: Client
    phase: Phase
    _start: dict[str, Tensor] | None = None

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        lr: float = 0.03,
        momentum: float = 0.5,
        weight_decay: float = 0.0,
        agg: Literal["examples", "uniform"] = "examples",
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError("model.num_classes", num_classes, "must be at least 2", "Check the data's classes.")
        check_not_negative("model.lr", lr, "The paper's recipe has 0.03.")
        if not 0 <= momentum < 1:
            raise ConfigError("model.momentum", momentum, "must lie in [0, 1)", "The paper's recipe has 0.5.")
        check_not_negative("model.weight_decay", weight_decay, "The recipe has 0.")
        check_choice("model.agg", agg, ("examples", "uniform"))
        self.automatic_optimization = False
        self.backbone = copy.deepcopy(backbone)  # training changes it, and the caller may use it for another method
        self.num_classes = num_classes
        self.lr, self.momentum, self.weight_decay, self.agg = lr, momentum, weight_decay, agg
        self.register_buffer("own_counts", torch.zeros(num_classes), persistent=False)
        self.own_counts: Tensor
        self.loss_sums: dict[str, Tensor] = {}
        self.examples = 0

    # What a method may change ------------------------------------------------------------------------------

    def is_shared(self, name: str) -> bool:
        """Whether the state entry ``name`` travels between server and clients."""
        return not within_any(name, self.personal) and not self.is_fixed(name)

    def is_fixed(self, name: str) -> bool:
        """Whether the server makes the state entry ``name``, so that no client trains it."""
        return within_any(name, (*self.fixed, *self.renewed, *self.server, *self.frozen))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Submodules of the bodies that the backbone freezes: they are fixed, and no phase trains them."""
        bodies = {name: getattr(self, name) for name in self.bodies}
        backbones = {name: body for name, body in bodies.items() if isinstance(body, Backbone)}
        return tuple(f"{name}.{part}".removesuffix(".") for name, body in backbones.items() for part in body.frozen)

    def check(self) -> None:
        """Raise a ConfigError if backbone and method do not fit; called before a run starts."""

    def is_trained(self, name: str) -> bool:
        """Whether the current phase trains the module or parameter ``name``."""
        if self.phase.trainable is None:
            return not self.is_fixed(name)
        return within_any(name, self.phase.trainable) and not within_any(name, self.frozen)

    def prepare(self, generator: torch.Generator) -> None:
        """Prepare the method on the server, once before the first round (FedLoGe solves SSE-C here)."""

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """Personal state of a client before its first round; by default the same for all clients.

        Args:
            template: Personal entries of the module as constructed.
            generator: Random generator of this client.
        """
        return template

    def generic_personal(self, clients: ClientStore, population: Sequence[Client]) -> Tensors:
        """Entries of the generic model in the place of personal ones; empty by default.

        A method whose generic model needs them (FedBN, FedRep) averages those of its clients for testing. The average
        is never broadcast.

        Args:
            clients: Personal states of all clients.
            population: All K clients.
        """
        return {}

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """Phases of a round's local training, in order."""
        return (Phase("train", local_epochs),)

    def local_losses(self, batch: Batch) -> Losses:
        """Objectives of a mini-batch by name. Their sum is minimised: detach features where gradients must not mix."""
        raise NotImplementedError

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates by submodule, for those that do not use ``lr``."""
        return {}

    def sgd_options(self) -> Mapping[str, Mapping[str, float]]:
        """Options of SGD by submodule (``lr``, ``momentum``, ``weight_decay``), where they are not the method's."""
        return {part: {"lr": rate} for part, rate in self.learning_rates().items()}

    def survey(self, batches: Iterable[Batch]) -> Tensors:
        """What the server asks of a round's clients before they train; by default it asks nothing.

        Runs in eval mode without gradients, like all hooks that get ``batches``. The client keeps nothing of it.

        Args:
            batches: The client's training images in order, without augmentation.
        """
        return {}

    def answer(self, surveys: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """Entries that the server changes after the :meth:`survey` of a round, and sends to the clients that train."""
        return {}

    def downlink(self, state: FederatedState, client: int) -> Tensors:
        """Entries that the server sends to this client alone, in the place of the common ones; empty by default."""
        return {}

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """Further tensors for the server, measured on the received model; empty by default."""
        return {}

    def before_training(self, batches: Iterable[Batch]) -> None:
        """Prepare the training of a client: may change the entries it starts from and its memory."""

    def after_training(self, batches: Iterable[Batch]) -> None:
        """Conclude the training of a client: may change its personal entries and its memory."""

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Further tensors for the server, measured on the locally trained model after :meth:`after_training`."""
        return {}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """Entries that a round changes on the server: all shared ones, and the renewed ones if the method has any.

        Args:
            updates: Client updates of the round in client order; they arrive during training and can be read once.
            state: State that the clients started from.
            generator: Random generator of the server for this round.
        """
        return weighted_mean(updates, uniform=self.agg == "uniform")

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Features [n, d] for :meth:`logits`; evaluation computes them once if all views share them."""
        features: Tensor = self.backbone(images)
        return features

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Class scores [n, C] of the generic model, or of the client whose personal state is loaded."""
        raise NotImplementedError

    def all_logits(self, images: Tensor) -> dict[View, Tensor]:
        """Class scores [n, C] of images by every view of the method, with the state that is loaded."""
        return {view: self.logits(self.features(images, view), view) for view in self.views}

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Realign once after the last round; returns ``state`` itself if the method does nothing.

        Args:
            state: Trained state, which is not changed.
            population: All K clients.
            train: All clients, for phases and surveys; None asks for the closed-form part without any of these.
        """
        return state

    def figures(self) -> Mapping[str, tuple[Tensor, str]]:
        """Matrices that loggers show as heat maps before the first round, by name, with captions; by default none.

        Values lie in [-1, 1].
        """
        return {}

    # Local training ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Move the received weights and the client's memory to the device of the module."""
        self.anchor = {name: tensor.to(self.device) for name, tensor in self.anchor.items()}
        self.client.memory.update({name: tensor.to(self.device) for name, tensor in self.client.memory.items()})

    def training_step(self, batch: Batch | Epoch, batch_idx: int) -> None:
        """Train on a batch, or on all batches of an epoch."""
        if isinstance(batch, Epoch):
            raw = self.optimizers(use_pl_optimizer=batch.profiler is not None)
            for own in batch.batches(self.device):
                self._record(self.local_step(own, raw), len(own[1]))
        else:
            self._record(self.local_step(batch, self.optimizers(), self.manual_backward), len(batch[1]))

    def local_step(self, batch: Batch, optimizer: Any, backward: Backward = torch.autograd.backward) -> Losses:
        """One step on the sum of the local losses; returns the losses."""
        losses = self.local_gradients(batch, optimizer, backward)
        optimizer.step()
        return losses

    def local_gradients(self, batch: Batch, optimizer: Any, backward: Backward = torch.autograd.backward) -> Losses:
        """Put the gradients of the sum of the local losses into the parameters; returns the losses.

        With a batch of one image, a BatchNorm that gets one value per channel takes its running statistics.
        """
        with running_statistics(self) if len(batch[1]) == 1 else nullcontext():
            losses = self.local_losses(batch)
        values = tuple(losses.values())
        optimizer.zero_grad()
        backward(values[0] if len(values) == 1 else torch.stack(values).sum())
        return losses

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the parameters that the phase trains, a group per submodule with own options; fused on the CPU.

        A fused update reads gradients in the memory layout of their parameters, which autograd gives them where these
        are dense. It cannot mix first and later steps, so momentum starts from zero, with the same result.
        """
        usual = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        special = self.sgd_options()
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = next((part for part in special if within(name, part)), "")
                groups.setdefault(part, []).append(parameter)
        trained = [parameter for parameters in groups.values() for parameter in parameters]
        optimizer = torch.optim.SGD(
            [{"params": own, **usual, **special.get(part, {}), "part": part} for part, own in groups.items()],
            **usual,  # type: ignore[arg-type]
            fused=True if all(map(_can_be_fused, trained)) else None,
        )
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def begin(self, client: Client, shared: SharedState, personal: Tensors) -> None:
        """Load the state that a client trains from; its kept version of shared or fixed entries is not trained."""
        entries, memory = {}, {}
        for name, tensor in personal.items():
            if name.startswith(SENT):
                entries[name.removeprefix(SENT)] = tensor
            elif self.is_personal(name) and not name.startswith(NOTE):
                entries[name] = tensor
            else:
                memory[name] = tensor
        self.load(self.broadcast(shared), entries)
        self.client, self.anchor = replace(client, memory=memory), shared.tensors
        self.own_counts.copy_(upload(torch.tensor(client.class_counts), self.own_counts.device))
        self.loss_sums, self.examples = {}, 0

    def begin_phase(self, phase: Phase) -> None:
        """Freeze what the phase does not train: gradients off, eval mode."""
        self.phase = phase
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_trained(name))
        for name, module in self.named_modules():
            module.training = self.is_trained(name)

    def received_features(self, images: Tensor) -> Tensor:
        """Features [n, d] of the body as all clients received it, in eval mode and without a gradient."""
        received = {n.removeprefix("backbone."): t for n, t in self.anchor.items() if within(n, "backbone")}
        modes = [(module, module.training) for module in self.backbone.modules()]
        self.backbone.eval()
        try:
            with torch.no_grad():
                features: Tensor = torch.func.functional_call(self.backbone, received, (images,))
        finally:
            for module, training in modes:
                module.training = training
        return features

    def _record(self, losses: Losses, examples: int) -> None:
        add_losses(self.loss_sums, losses, examples)
        self.examples += examples

    # State -------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Return to the entries before the first run, so that a method that is used again starts like a new one.

        Entries that ``load_state_dict`` has brought since then are kept.
        """
        if self._start is None:
            self._start = {name: entry.clone() for name, entry in self.state_dict().items()}
            return
        self.to(next(entry.dtype for entry in self._start.values() if entry.is_floating_point()))
        self.load_entries(self._start)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; the next run starts from these entries."""
        self._start = None
        return super().load_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_start": None}  # a copy, for a worker for example, starts where it is

    def initial_state(self, num_clients: int, generator: Callable[[int], torch.Generator]) -> FederatedState:
        """State before the first round, from the current entries of the module.

        Args:
            num_clients: Number of clients K.
            generator: Function that returns the random generator of a client.
        """
        template = {name: tensor.clone() for name, tensor in self.personal_entries().items()}
        clients = ClientStore(num_clients, lambda client: self.initial_personal(template, generator(client)))
        return FederatedState(0, self.shared_state(), clients)

    def shared_state(self) -> SharedState:
        """Copies of the current shared and fixed entries."""
        entries = self.state_dict()
        return SharedState(
            tensors={name: entry.clone() for name, entry in entries.items() if self.is_shared(name)},
            fixed={name: entry.clone() for name, entry in entries.items() if self.is_fixed(name)},
        )

    def personal_entries(self, keep: Collection[str] = ()) -> Tensors:
        """Current personal entries, and those of the submodules to ``keep``; not copied."""
        entries = self.state_dict().items()
        return {name: entry for name, entry in entries if self.is_personal(name) or within_any(name, keep)}

    def notes(self) -> Tensors:
        """Current notes in the memory of the client."""
        return {name: tensor for name, tensor in self.client.memory.items() if name.startswith(NOTE)}

    def broadcast(self, shared: SharedState) -> SharedState:
        """The part of a shared state that leaves the server."""
        if not self.server:
            return shared
        fixed = {name: tensor for name, tensor in shared.fixed.items() if not within_any(name, self.server)}
        return replace(shared, fixed=fixed)

    def addressed(self, state: FederatedState) -> ClientStore:
        """Personal states of all clients, with what the server sends to each of them alone."""
        if type(self).downlink is Method.downlink:
            return state.clients

        def with_sent(client: int, own: Tensors) -> Tensors:
            return {**own, **{SENT + name: tensor for name, tensor in self.downlink(state, client).items()}}

        return state.clients.map(with_sent)

    @contextmanager
    def without_server_entries(self) -> Iterator[None]:
        """Empty the entries that never leave the server inside, so that copies for clients take no memory for them."""
        held: list[tuple[dict[str, Any], str, Tensor]] = []
        for prefix, module in self.named_modules():
            for entries in (module._parameters, module._buffers):
                for name, tensor in entries.items():
                    if tensor is not None and within_any(f"{prefix}.{name}".lstrip("."), self.server):
                        held.append((entries, name, tensor))
        try:
            for entries, name, tensor in held:
                entries[name] = torch.empty_like(tensor.detach()[:0] if tensor.dim() else tensor)
            yield
        finally:
            for entries, name, tensor in held:
                entries[name] = tensor

    def is_personal(self, name: str) -> bool:
        """Whether the state entry ``name`` stays with the client."""
        return not self.is_shared(name) and not self.is_fixed(name)

    def has_own_body(self, personal: Tensors) -> bool:
        """Whether a client with these entries computes its own features, so that testing it needs its own pass."""
        return any(within_any(name, self.bodies) for name in personal)

    def load(self, shared: SharedState, personal: Tensors) -> None:
        """Copy a shared and a personal state into the module; for an entry in both, the client's counts."""
        self.load_entries({**shared.tensors, **shared.fixed, **personal})

    def load_entries(self, tensors: Tensors) -> None:
        """Copy some entries into the module: neither notes of a client nor what never leaves the server."""
        entries = {name: tensor for name, tensor in tensors.items() if not within_any(name, self.server)}
        copy_into(self.state_dict(), {name: entry for name, entry in entries.items() if not name.startswith(NOTE)})


def num_images(batch: Batch) -> int:
    """Number of images in a batch."""
    return len(batch[1])


def add_losses(sums: dict[str, Tensor], losses: Losses, examples: int) -> None:
    """Add the losses of a batch, times its number of examples, to their sums, in place."""
    for name, loss in losses.items():
        if name not in sums:
            sums[name] = torch.zeros_like(loss)
    values = [loss.detach() for loss in losses.values()]
    torch._foreach_add_([sums[name] for name in losses], torch._foreach_mul(values, examples))


def _can_be_fused(parameter: nn.Parameter) -> bool:
    """Whether the parameter lies on the CPU without gaps, in an order that its gradient is known to follow."""
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    return dense and parameter.device.type == "cpu" and parameter.is_floating_point()


def within(name: str, part: str) -> bool:
    """Whether the module or entry ``name`` is ``part`` or lies in it, by whole dotted components."""
    return name == part or name.startswith(part + ".")


def within_any(name: str, parts: Iterable[str]) -> bool:
    """Whether ``name`` is :func:`within` one of the parts."""
    return any(within(name, part) for part in parts)
