"""What a federated method is: a LightningModule whose hooks default to FedAvg's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fedloge.aggregation import weighted_mean
from fedloge.checks import check_not_negative
from fedloge.errors import ConfigError
from fedloge.models.base import Backbone
from fedloge.state import ClientStore, ClientUpdate, FederatedState, SharedState, Tensors

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
            run in eval mode, so that their BatchNorm statistics stay too. None trains everything.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] | None = None

    def trains(self, name: str) -> bool:
        """Whether the module or parameter called ``name`` is trained in this phase."""
        return self.trainable is None or any(within(name, part) for part in self.trainable)


@dataclass(frozen=True)
class Client:
    """The client at work: its id, its number of training examples and their class counts n_{k,c}."""

    id: int
    num_examples: int
    class_counts: tuple[int, ...]


TrainClients = Callable[[FederatedState, Sequence[Phase]], ClientStore]
"""Runs phases on every client from a state and returns their new personal states (for :meth:`Method.finalize`)."""


class Method(LightningModule):
    """Base of all methods. What a paper changed is a hook or an attribute; everything else is FedAvg.

    The entries of ``state_dict`` (parameters and buffers) are of three kinds: *shared* ones travel and are averaged,
    *personal* ones stay with their client, *fixed* ones are made once by the server.

    Args:
        backbone: θ, images to features.
        num_classes: C; from the command line it comes from the data.
        lr: Learning rate of local SGD.
        momentum: Momentum of local SGD; the optimiser is new in every round, so momentum never crosses rounds.
        weight_decay: L2 penalty of local SGD.

    Attributes:
        personal: Submodules whose entries stay with the client.
        fixed: Submodules whose entries nobody trains.
        views: The models that the method has.
        anchor: During local training, the shared weights as received (w^t).
        client: During local training, the client at work.
        phase: During local training, the current phase.
    """

    personal: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[tuple[View, ...]] = ("global", "personal")

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
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError("model.num_classes", num_classes, "must be at least 2", "Check the data's classes.")
        check_not_negative("model.lr", lr, "The paper's recipe has 0.03.")
        if not 0 <= momentum < 1:
            raise ConfigError("model.momentum", momentum, "must lie in [0, 1)", "The paper's recipe has 0.5.")
        check_not_negative("model.weight_decay", weight_decay, "The recipe has 0.")
        self.automatic_optimization = False
        self.backbone = backbone
        self.num_classes = num_classes
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._loss_sums: dict[str, Tensor] = {}
        self._examples = 0

    # What a method may change ------------------------------------------------------------------------------

    def is_shared(self, name: str) -> bool:
        """Whether the state entry ``name`` travels between server and clients."""
        return not any(within(name, part) for part in (*self.personal, *self.fixed))

    def is_fixed(self, name: str) -> bool:
        """Whether the state entry ``name`` is made once by the server and never trained."""
        return any(within(name, part) for part in self.fixed)

    def check(self) -> None:
        """Raise a ConfigError where backbone and method do not fit; asked before a run starts."""

    def is_trained(self, name: str) -> bool:
        """Whether the current phase trains the module or parameter ``name``."""
        return self.phase.trains(name) and not self.is_fixed(name)

    def prepare(self, generator: torch.Generator) -> None:
        """Make on the server, once before the first round, what the method needs (SSE-C for FedLoGe)."""

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """Personal state of a client before its first round; by default the same for all clients.

        Args:
            template: The personal entries as the module was constructed.
            generator: Of this client alone.
        """
        return template

    def generic_personal(self, clients: ClientStore, num_examples: Sequence[int]) -> Tensors:
        """What stands in the generic model where a client's personal entries would be; by default nothing.

        A method whose generic model needs them (FedBN, FedRep) averages its clients' for testing. The average is never
        broadcast.
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

    def aggregate(self, updates: Iterable[ClientUpdate]) -> Tensors:
        """New shared entries from the updates of a round, in client order."""
        return weighted_mean(updates)

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Features [n, d] that :meth:`logits` takes; evaluation computes them once where all views share them."""
        features: Tensor = self.backbone(images)
        return features

    def shares_features(self) -> bool:
        """Whether one backbone serves all models, so that evaluation needs one pass for all of them."""
        return not any(within(name, "backbone") for name in self.personal_entries())

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Class scores [n, C] of the generic model, or of the client whose personal state is loaded."""
        raise NotImplementedError

    def finalize(self, state: FederatedState, train: TrainClients | None = None) -> FederatedState:
        """What happens once after the last round; returns ``state`` itself where nothing does.

        Args:
            state: The trained state, left as it is.
            train: Runs phases on all clients; None asks for the closed-form part alone, without any training.
        """
        return state

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
        """Load a client's state and forget the one before."""
        self.load(shared, personal)
        self.client, self.anchor = client, shared.tensors
        self._loss_sums, self._examples = {}, 0

    def begin_phase(self, phase: Phase) -> None:
        """Freeze what the phase does not train: gradients off, eval mode."""
        self.phase = phase
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_trained(name))
        for name, module in self.named_modules():
            module.training = self.is_trained(name)

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

    def personal_entries(self) -> Tensors:
        """The personal entries as they are now, not copied."""
        return {
            name: entry
            for name, entry in self.state_dict().items()
            if not self.is_shared(name) and not self.is_fixed(name)
        }

    @torch.no_grad()
    def load(self, shared: SharedState, personal: Tensors) -> None:
        """Copy a shared and a personal state into the module."""
        entries = self.state_dict()
        for source in (shared.tensors, shared.fixed, personal):
            for name, tensor in source.items():
                entries[name].copy_(tensor)


def within(name: str, part: str) -> bool:
    """Whether the module or entry ``name`` is ``part`` or lies in it, by whole dotted components."""
    return name == part or name.startswith(part + ".")
