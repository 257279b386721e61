"""Base class of federated methods: a LightningModule whose hooks default to FedAvg."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from fedloge.system.devices import upload

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, channels, H, W], normalised, and labels int64 [n]."""

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
    """A client: its id, the class counts n_{k,c} of its training examples, and the current round."""

    id: int
    class_counts: tuple[int, ...]
    round: int = 0

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


TrainClients = Callable[[FederatedState, Sequence[Phase]], ClientStore]
"""Runs phases on every client from a state and returns their new personal states (for :meth:`Method.finalize`)."""


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
        backbone: Backbone θ, which maps images to features.
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
        views: The models that the method has.
        privileged: Privileged knowledge that the server needs; declared wherever results are shown.
        needs_images: Whether the method changes the images themselves, so that features cannot stand in their place.
        finalized: Effect of :meth:`finalize` on the models, in one word for tables.
        server_data: Privileged knowledge of the server, set before :meth:`prepare`.
        anchor: Shared weights as received (w^t), during local training.
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
    views: ClassVar[tuple[View, ...]] = ("global", "personal")
    privileged: ClassVar[tuple[Knowledge, ...]] = ()
    needs_images: ClassVar[bool] = False
    finalized: ClassVar[str] = "fine-tuned"

    server_data: ServerData = ServerData()
    anchor: Tensors
    client: Client
    phase: Phase

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
        self.backbone = backbone
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

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """Further tensors for the server, measured on the received model; empty by default.

        Runs in eval mode without gradients.

        Args:
            batches: The client's training images, without augmentation.
        """
        return {}

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Further tensors for the server, measured on the locally trained model; like :meth:`report_received`."""
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

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Realign once after the last round; returns ``state`` itself if the method does nothing.

        Args:
            state: Trained state, which is not changed.
            population: All K clients.
            train: Function that runs phases on all clients; None asks for the closed-form part without any training.
        """
        return state

    def figures(self) -> Mapping[str, tuple[Tensor, str]]:
        """Matrices that loggers show as heat maps before the first round, by name, with captions; by default none.

        Values lie in [-1, 1].
        """
        return {}

    # Local training ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Move the received weights to the device of the module."""
        self.anchor = {name: tensor.to(self.device) for name, tensor in self.anchor.items()}

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
        """Put the gradients of the sum of the local losses into the parameters; returns the losses."""
        losses = self.local_losses(batch)
        values = tuple(losses.values())
        optimizer.zero_grad()
        backward(values[0] if len(values) == 1 else torch.stack(values).sum())
        return losses

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the parameters that the phase trains, a group per set of options; fused on the CPU.

        A fused update reads gradients in the memory layout of their parameters, which autograd gives them where these
        are dense. It cannot mix first and later steps, so momentum starts from zero, with the same result.
        """
        usual = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        special = self.sgd_options()
        groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                own = next((options for part, options in special.items() if within(name, part)), {})
                groups.setdefault(tuple({**usual, **own}.items()), []).append(parameter)
        trained = [parameter for parameters in groups.values() for parameter in parameters]
        optimizer = torch.optim.SGD(
            [{"params": parameters, **dict(options)} for options, parameters in groups.items()],
            **usual,  # type: ignore[arg-type]
            fused=True if all(map(_can_be_fused, trained)) else None,
        )
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def begin(self, client: Client, shared: SharedState, personal: Tensors) -> None:
        """Load the state that a client trains from; its kept version of shared or fixed entries is not trained."""
        self.load(shared, {name: own for name, own in personal.items() if self.is_personal(name)})
        self.client, self.anchor = client, shared.tensors
        self.own_counts.copy_(upload(torch.tensor(client.class_counts), self.own_counts.device))
        self.loss_sums, self.examples = {}, 0

    def begin_phase(self, phase: Phase) -> None:
        """Freeze what the phase does not train: gradients off, eval mode."""
        self.phase = phase
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_trained(name))
        for name, module in self.named_modules():
            module.training = self.is_trained(name)

    def _record(self, losses: Losses, examples: int) -> None:
        add_losses(self.loss_sums, losses, examples)
        self.examples += examples

    # State -------------------------------------------------------------------------------------------------

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

    def is_personal(self, name: str) -> bool:
        """Whether the state entry ``name`` stays with the client."""
        return not self.is_shared(name) and not self.is_fixed(name)

    def has_own_body(self, personal: Tensors) -> bool:
        """Whether a client with these entries computes its own features, so that testing it needs its own pass."""
        return any(within_any(name, self.bodies) for name in personal)

    def load(self, shared: SharedState, personal: Tensors) -> None:
        """Copy a shared and a personal state into the module; for an entry in both, the client's counts."""
        self.load_entries({**shared.tensors, **shared.fixed, **personal})

    @torch.no_grad()
    def load_entries(self, tensors: Tensors) -> None:
        """Copy some entries into the module."""
        entries = self.state_dict()
        for name, tensor in tensors.items():
            entries[name].copy_(tensor)


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
