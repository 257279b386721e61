"""Parts of a run, and a trainer's access to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fedloge.data.datamodule import FederatedDataModule
from fedloge.evaluation.evaluator import Evaluator
from fedloge.executors.base import Executor
from fedloge.federation.progress import Progress
from fedloge.federation.round import Faults
from fedloge.methods.base import Client, Method
from fedloge.preflight import Cost
from fedloge.runs.folder import RunFolder

Part = TypeVar("Part")


@dataclass(frozen=True)
class Parts:
    """Parts of a run.

    Args:
        method: Method that is trained.
        data: Data of all clients.
        population: All K clients.
        executor: Trains clients.
        evaluator: Tests the generic and the personal models.
        validator: Tests them on the clients' validation images; None where no client has any.
        folder: Run folder.
        faults: Records failed clients.
        seed: Seed of the run.
    """

    method: Method
    data: FederatedDataModule
    population: Sequence[Client]
    executor: Executor
    evaluator: Evaluator
    validator: Evaluator | None
    folder: RunFolder
    faults: Faults
    seed: int

    def info(self) -> dict[str, Any]:
        """Entries of ``environment.json``."""
        return {"seed": self.seed, "device": str(self.evaluator.device)}

    def identity(self) -> dict[str, Any]:
        """What a checkpoint has in common with every run that may resume from it."""
        return {"method": type(self.method).__name__, "seed": self.seed, "partition": self.data.partition.sha256}


def training_work(method: Method, population: Sequence[Client], epochs: float) -> float:
    """Amount of training: images that pass through the network, times its parameters.

    Args:
        method: Method that is trained.
        population: All K clients.
        epochs: Mean number of epochs that a client trains in the whole run.
    """
    images = sum(client.num_examples for client in population)
    return images * epochs * sum(parameter.numel() for parameter in method.parameters())


class HasParts:
    """Gives callbacks and others the parts of a trainer's run; a part that is not there yet raises a RuntimeError."""

    _parts: Parts | None = None
    _progress: Progress | None = None
    _cost: Cost | None = None

    @property
    def parts(self) -> Parts:
        """Parts of the run; known after ``attach``."""
        return _known(self._parts)

    @property
    def method(self) -> Method:
        """Method that is trained."""
        return self.parts.method

    @property
    def data(self) -> FederatedDataModule:
        """Data of all clients."""
        return self.parts.data

    @property
    def population(self) -> Sequence[Client]:
        """All K clients."""
        return self.parts.population

    @property
    def executor(self) -> Executor:
        """Trains clients."""
        return self.parts.executor

    @property
    def evaluator(self) -> Evaluator:
        """Tests the generic and the personal models."""
        return self.parts.evaluator

    @property
    def folder(self) -> RunFolder:
        """Run folder."""
        return self.parts.folder

    @property
    def progress(self) -> Progress:
        """Progress of the run; known in ``fit``."""
        return _known(self._progress)

    @property
    def cost(self) -> Cost:
        """Estimated cost of the run; known from ``on_run_start`` on."""
        return _known(self._cost)


def _known(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("the trainer has no run yet: call fit() or attach() first")
    return part
