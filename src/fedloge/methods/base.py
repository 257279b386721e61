"""What a federated method is: a LightningModule whose hooks default to FedAvg's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from lightning import LightningModule
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
"""Which of the 1 + K models: the generic one, or that of the client whose personal state is loaded."""


@dataclass(frozen=True)
class Phase:
    """A part of the local training with an optimiser of its own.

    Args:
        name: What :meth:`Method.local_losses` asks for in ``self.phase.name``.
        epochs: Local epochs.
        trainable: The submodules (dotted prefixes) that are trained; all others are left out of the optimiser and
            run in eval mode, so that their BatchNorm statistics stay too. None trains everything but what is fixed.
        keep: The submodules of which the client keeps its own version as it is after the training, in place of the
            shared or fixed one; the next training starts from the received one again.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Client:
    """A client: its id, the class counts n_{k,c} of its training examples, and the round it is at work in."""

    id: int
    class_counts: tuple[int, ...]
    round: int = 0

    @property
    def num_examples(self) -> int:
        """n_k."""
        return sum(self.class_counts)


Knowledge = Literal["class_counts", "auxiliary"]
"""What a server does not know without being told: the N_c of all clients together; a labelled set of its own."""


@dataclass(frozen=True)
class ServerData:
    """What the server was told; empty but for the knowledge that the method declares in ``Method.privileged``.

    Args:
        class_counts: N_c of all training images, length C.
        auxiliary: Balanced training images that the server holds, without augmentation.
    """

    class_counts: tuple[int, ...] | None = None
    auxiliary: Batch | None = None


TrainClients = Callable[[FederatedState, Sequence[Phase]], ClientStore]
"""Runs phases on every client from a state and returns their new personal states (for :meth:`Method.finalize`)."""


class Method(LightningModule):
    """Base of all methods. What a paper changed is a hook or an attribute; everything else is FedAvg.

    The entries of ``state_dict`` (parameters and buffers) are of three kinds: *shared* ones travel and are averaged,
    *personal* ones stay with their client, *fixed* ones are made by the server: once before the first round; again in
    every :meth:`aggregate`, where they are *renewed*; for itself alone, where they are the *server's*.

    Args:
        backbone: θ, images to features.
        num_classes: C; from the command line it comes from the data.
        lr: Learning rate of local SGD.
        momentum: Momentum of local SGD; the optimiser is new in every round, so momentum never crosses rounds.
        weight_decay: L2 penalty of local SGD.
        agg: Weights of the server's average: n_k, the number of ``examples``, or ``uniform``.

    Attributes:
        personal: Submodules whose entries stay with the client.
        fixed: Submodules whose entries the server makes once; broadcast before the first round.
        renewed: Submodules whose entries the server makes anew in every round; they travel down, never up.
        server: Submodules whose entries never leave the server.
        bodies: Submodules that :meth:`features` come from. A client with entries of its own in one of them needs a
            pass of its own over the test images.
        views: The models that the method has.
        privileged: What the server must be told; declared wherever results are shown.
        finalized: What :meth:`finalize` makes of the models, in one word for tables.
        server_data: That knowledge, from before :meth:`prepare` on.
        anchor: During local training, the shared weights as received (w^t).
        client: During local training, the client at work.
        own_counts: Its class counts n_{k,c}, float32 [C] on the device: what a loss should read, since a step that
            reads ``client`` cannot be captured in a CUDA graph.
        phase: During local training, the current phase.
    """

    personal: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    renewed: ClassVar[tuple[str, ...]] = ()
    server: ClassVar[tuple[str, ...]] = ()
    bodies: ClassVar[tuple[str, ...]] = ("backbone",)
    views: ClassVar[tuple[View, ...]] = ("global", "personal")
    privileged: ClassVar[tuple[Knowledge, ...]] = ()
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
        self._loss_sums: dict[str, Tensor] = {}
        self._examples = 0

    # What a method may change ------------------------------------------------------------------------------

    def is_shared(self, name: str) -> bool:
        """Whether the state entry ``name`` travels between server and clients."""
        return not within_any(name, self.personal) and not self.is_fixed(name)

    def is_fixed(self, name: str) -> bool:
        """Whether the state entry ``name`` is made by the server and not trained in a round."""
        return within_any(name, (*self.fixed, *self.renewed, *self.server))

    def check(self) -> None:
        """Raise a ConfigError where backbone and method do not fit; asked before a run starts."""

    def is_trained(self, name: str) -> bool:
        """Whether the current phase trains the module or parameter ``name``."""
        if self.phase.trainable is None:
            return not self.is_fixed(name)
        return within_any(name, self.phase.trainable)

    def prepare(self, generator: torch.Generator) -> None:
        """Make on the server, once before the first round, what the method needs (SSE-C for FedLoGe)."""

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """Personal state of a client before its first round; by default the same for all clients.

        Args:
            template: The personal entries as the module was constructed.
            generator: Of this client alone.
        """
        return template

    def generic_personal(self, clients: ClientStore, population: Sequence[Client]) -> Tensors:
        """What stands in the generic model where a client's personal entries would be; by default nothing.

        A method whose generic model needs them (FedBN, FedRep) averages its clients' for testing. The average is never
        broadcast.

        Args:
            clients: Their personal states.
            population: All K clients.
        """
        return {}

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """The parts of a round's local training, in order."""
        return (Phase("train", local_epochs),)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """The objectives of a mini-batch by name; their sum is minimised, so detach where they must not mix."""
        raise NotImplementedError

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates of submodules that do not use ``lr``."""
        return {}

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """What a client tells the server besides, measured on the model as received; by default nothing.

        Runs in eval mode without gradients.

        Args:
            batches: The client's training images, without augmentation.
        """
        return {}

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """The same, measured on the model after local training."""
        return {}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """The entries that a round changes on the server: all shared ones, and fixed ones where a method renews them.

        Args:
            updates: Of the round, in client order; they arrive while clients are trained and can be read once.
            state: What the clients started from.
            generator: For what the server draws in this round.
        """
        return weighted_mean(updates, uniform=self.agg == "uniform")

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Features [n, d] that :meth:`logits` takes; evaluation computes them once where all views share them."""
        features: Tensor = self.backbone(images)
        return features

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Class scores [n, C] of the generic model, or of the client whose personal state is loaded."""
        raise NotImplementedError

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """What happens once after the last round; returns ``state`` itself where nothing does.

        Args:
            state: The trained state, left as it is.
            population: All K clients.
            train: Runs phases on all clients; None asks for the closed-form part alone, without any training.
        """
        return state

    def figures(self) -> Mapping[str, tuple[Tensor, str]]:
        """Matrices that loggers show as heat maps before the first round, by name, with captions; by default none.

        Values lie in [-1, 1].
        """
        return {}

    # Local training ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Take the received weights to where the module is."""
        self.anchor = {name: tensor.to(self.device) for name, tensor in self.anchor.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the phase's only optimiser on the sum of the local losses."""
        losses = self.local_losses(batch)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        self.manual_backward(torch.stack(tuple(losses.values())).sum())
        optimizer.step()
        self._record(losses, len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over what the phase trains, a parameter group per learning rate."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                rates = [rate for part, rate in self.learning_rates().items() if within(name, part)]
                groups.setdefault(rates[0] if rates else self.lr, []).append(parameter)
        return torch.optim.SGD(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def begin(self, client: Client, shared: SharedState, personal: Tensors) -> None:
        """Load what a client trains from, and forget the one before: its own version of shared entries is for use."""
        self.load(shared, {name: own for name, own in personal.items() if self.is_personal(name)})
        self.client, self.anchor = client, shared.tensors
        self.own_counts.copy_(upload(torch.tensor(client.class_counts), self.own_counts.device))
        self._loss_sums, self._examples = {}, 0

    def begin_phase(self, phase: Phase) -> None:
        """Freeze what the phase does not train: gradients off, eval mode."""
        self.phase = phase
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_trained(name))
        for name, module in self.named_modules():
            module.training = self.is_trained(name)

    def take_losses(self, sums: Mapping[str, Tensor], examples: int) -> None:
        """Take local losses, summed over examples, that were recorded elsewhere, for :meth:`local_metrics`."""
        self._loss_sums, self._examples = dict(sums), examples

    def local_metrics(self) -> dict[str, float]:
        """Example-weighted means of the local losses since :meth:`begin`, and their sum as ``loss``."""
        means = {name: float(value) / self._examples for name, value in self._loss_sums.items()}
        return {"loss": sum(means.values()), **means}

    def _record(self, losses: Mapping[str, Tensor], examples: int) -> None:
        for name, loss in losses.items():
            value = loss.detach() * examples
            self._loss_sums[name] = self._loss_sums[name] + value if name in self._loss_sums else value
        self._examples += examples

    # State -------------------------------------------------------------------------------------------------

    def initial_state(self, num_clients: int, generator: Callable[[int], torch.Generator]) -> FederatedState:
        """The state before the first round, from the module as it is now.

        Args:
            num_clients: K.
            generator: Gives each client's own.
        """
        template = {name: tensor.clone() for name, tensor in self.personal_entries().items()}
        clients = ClientStore(num_clients, lambda client: self.initial_personal(template, generator(client)))
        return FederatedState(0, self.shared_state(), clients)

    def shared_state(self) -> SharedState:
        """Copies of the shared and fixed entries as they are now."""
        entries = self.state_dict()
        return SharedState(
            tensors={name: entry.clone() for name, entry in entries.items() if self.is_shared(name)},
            fixed={name: entry.clone() for name, entry in entries.items() if self.is_fixed(name)},
        )

    def personal_entries(self, keep: Collection[str] = ()) -> Tensors:
        """The personal entries as they are now, and those of the submodules to ``keep``; not copied."""
        entries = self.state_dict().items()
        return {name: entry for name, entry in entries if self.is_personal(name) or within_any(name, keep)}

    def is_personal(self, name: str) -> bool:
        """Whether the state entry ``name`` stays with the client."""
        return not self.is_shared(name) and not self.is_fixed(name)

    def has_own_body(self, personal: Tensors) -> bool:
        """Whether a client with these entries has features of its own, so that testing it needs a pass of its own."""
        return any(within_any(name, self.bodies) for name in personal)

    def load(self, shared: SharedState, personal: Tensors) -> None:
        """Copy a shared and a personal state into the module; where both have an entry, the client's stands."""
        self.load_entries({**shared.tensors, **shared.fixed, **personal})

    @torch.no_grad()
    def load_entries(self, tensors: Tensors) -> None:
        """Copy some entries into the module."""
        entries = self.state_dict()
        for name, tensor in tensors.items():
            entries[name].copy_(tensor)


def within(name: str, part: str) -> bool:
    """Whether the module or entry ``name`` is ``part`` or lies in it, by whole dotted components."""
    return name == part or name.startswith(part + ".")


def within_any(name: str, parts: Iterable[str]) -> bool:
    """Whether ``name`` is :func:`within` one of the parts."""
    return any(within(name, part) for part in parts)
