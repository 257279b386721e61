"""``fedloge new-client``: a personal model for a client that never took part, from its own images alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloge.checks import check_least
from fedloge.data.files import FolderFiles
from fedloge.data.images import TensorImages, check_distinct
from fedloge.data.loader import Batch, BatchLoader, BatchSettings, RandomStreams, SequentialLoader
from fedloge.errors import DataError, RunError, few
from fedloge.executors import ClientFailure, Serial
from fedloge.federation.checks import usual_last_batch
from fedloge.federation.round import AllClients
from fedloge.federation.seeding import Stream, generator
from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, Tensors
from fedloge.inference.images import find_images, open_images
from fedloge.inference.models import choose_model, free_folder, save_client
from fedloge.methods.base import Client, Method, Phase, within_any
from fedloge.runs.run import Run
from fedloge.system.live import Line

EPOCHS = 100
"""Epochs of training a head on the frozen body by default; on the digits more epochs change nothing."""
NEW = 0
"""Number of the new client, the only one of its population."""


class Counted(BatchLoader):
    """A loader that counts its epochs in a line."""

    line: Line

    def __iter__(self) -> Iterator[Batch]:
        yield from super().__iter__()
        self.line.advance()


class ClientImages:
    """The images of one client, in the form that local training needs.

    Args:
        images: uint8 [n, channels, H, W].
        labels: int64 [n].
        num_classes: C.
        settings: Batch settings.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, settings: BatchSettings) -> None:
        self.images, self.labels, self.settings = images, labels, settings
        self.counts: list[int] = torch.bincount(labels, minlength=num_classes).tolist()
        self.client = Client(NEW, tuple(self.counts))
        self.line = Line("training, epoch")

    def client_counts(self, client: int) -> Sequence[int]:
        """n_{k,c}, length C."""
        return self.counts

    def client_batches(self, client: int, device: torch.device | None = None) -> Iterator[Batch]:
        """Batches of the images in order, without augmentation."""
        everything = torch.arange(len(self.labels))
        return iter(
            SequentialLoader(TensorImages(self.images), self.labels, everything, replace(self.settings, device=device))
        )

    def client_loader(self, client: int, *, seed: int, round: int, phase: int = 0) -> Counted:
        """Batches; every iteration over it is the next local epoch."""
        everything, random = torch.arange(len(self.labels)), RandomStreams(seed, round, client, phase)
        loader = Counted(TensorImages(self.images), self.labels, everything, self.settings, random)
        loader.line = self.line
        return loader


def add_client(
    run: Run, data: str | Path, output: str | Path | None = None, epochs: int = EPOCHS, convert: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Make a personal model from the images of a client that never took part; the run is not changed.

    FedLoGe: its own φ is trained on the frozen body, then LA-FR uses the norms of φ. See :func:`plan`.

    Args:
        run: Finished run.
        data: Folder of folders that are named after classes of the run.
        output: Folder for the model; ``RUN/new_clients/<name of data>`` by default.
        epochs: Number of epochs that a head is trained on the frozen body.
        convert: Scale, crop and convert images that do not fit.

    Returns:
        Folder, and content of its ``client.json``.

    Raises:
        FedlogeError: If the images do not fit the run, or the method has nothing that a new client could train.
    """
    if "personal" not in run.method.views:
        raise RunError(f"{type(run.method).__name__} has no personal models, so none for a new client.")
    check_least("epochs", epochs, 1)
    images = read_client(run, data, convert)
    phases = plan(run.method, run.trainer.local_epochs, epochs, _finetunes(run, images))
    folder = Path(output) if output else run.folder.path / "new_clients" / Path(data).resolve().name
    free_folder(folder, "output")
    images.line.total = sum(phase.epochs for phase in phases) or None
    with images.line:
        personal = train_new_client(run, images, phases)
    parts = [name for name in personal if not name.endswith("num_batches_tracked")]
    names = run.record.class_names
    about = {
        "round": run.state("last").round,
        "images": len(images.labels),
        "class_counts": {names[c]: count for c, count in enumerate(images.counts) if count},
        "epochs": [phase.epochs for phase in phases],
        "trained": ", ".join(sorted({name.partition(".")[0] for name in parts})),
        "accuracy": _accuracies(run, images, personal),
    }
    save_client(run, folder, personal, about)
    return folder, about


def plan(method: Method, local_epochs: int, epochs: int, finetunes: bool = False) -> Sequence[Phase]:
    """The phases that a new client trains before the method's own last step (LA-FR, fine-tuning).

    What clients keep to themselves is trained by the method's own phases with everything shared frozen: φ of FedLoGe,
    the head of FedPer, v_k of Ditto, BatchNorm of FedBN. A method whose clients keep a copy of what they trained
    (``pm=local``, FedNH) trains that for one round. A method that fine-tunes after the last round needs no training
    before it. For all others the new client gets a head of its own, trained on the frozen body.

    Args:
        method: Method of the run.
        local_epochs: Local epochs E of the run.
        epochs: Number of epochs of training on the frozen body.
        finetunes: Whether the method's last step trains.

    Raises:
        RunError: If there is nothing that a client could train.
    """
    own = [name for name, _ in method.named_parameters() if method.is_personal(name)]
    phases = list(method.phases(local_epochs))
    if own:
        modules = tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in own))
        trained = [(phase, tuple(name for name in modules if _trains(phase, name))) for phase in phases]
        return [replace(phase, epochs=epochs, trainable=parts) for phase, parts in trained if parts]
    if any(phase.keep for phase in phases):
        return phases
    if finetunes:
        return []
    if not hasattr(method, "head"):
        raise RunError(f"{type(method).__name__} has no head that a new client could train; it has the generic model.")
    return [Phase("train", epochs, ("head",), keep=("head",))]


def _finetunes(run: Run, images: ClientImages) -> bool:
    """Whether the method trains after the last round."""
    probe = _Probe()
    run.method.finalize(_alone(run), [images.client], probe)
    return probe.asked


class _Probe:
    """Notes whether a method trains, and answers no survey."""

    asked = False

    def __call__(self, state: FederatedState, phases: Sequence[Phase], /) -> ClientStore:
        self.asked = True
        return state.clients

    def survey(self, state: FederatedState) -> Iterable[ClientUpdate]:
        return ()


def _alone(run: Run) -> FederatedState:
    """The trained state with the new client, untrained, as the only one."""
    method = run.method
    template = {name: tensor.clone() for name, tensor in method.personal_entries().items()}
    source = generator(run.trainer.seed, 0, len(run.final.clients), Stream.PERSONAL)  # that of no client of the run
    initial = method.initial_personal(template, source)
    return replace(run.state("last"), clients=ClientStore(1, lambda _: initial))


def _trains(phase: Phase, name: str) -> bool:
    return phase.trainable is None or within_any(name, phase.trainable)


def train_new_client(run: Run, images: ClientImages, phases: Sequence[Phase]) -> Tensors:
    """Train a population of this one client from the trained state, and return its personal entries."""
    executor = Serial()
    executor.start(run.method, images, run.trainer.local_settings)

    train, state = AllClients(executor, _refuse), _alone(run)
    if phases:
        state = replace(state, clients=train(state, phases))
    final = run.method.finalize(state, [images.client], train)
    return final.clients[NEW]


def _refuse(failure: ClientFailure) -> None:
    raise RunError(f"the new client could not be trained: {failure.reason}.")


def read_client(run: Run, data: str | Path, convert: bool = False) -> ClientImages:
    """Read a client's images from ``DATA/<class>/*``.

    Raises:
        DataError: If a folder is empty or not named after a class of the run, or an image does not fit.
    """
    names = run.record.class_names
    folders = FolderFiles(Path(data)).folders("")
    if not folders:
        raise DataError(f"{str(data)!r} has no class folder. Sort the client's images into DATA/<class>/*.")
    files: list[Path] = []
    labels: list[int] = []
    for name in folders:
        folder = Path(data) / name
        if name not in names:
            raise DataError(f"{str(folder)!r} is named after no class of the run. Its classes are {few(names)}.")
        inside = find_images([folder])
        files += inside
        labels += [names.index(name)] * len(inside)
    opened = open_images(files, run.record, convert)
    check_distinct([opened])
    record, served = run.record, run.data
    last_batch = usual_last_batch(run.method, served)
    settings = BatchSettings(served.batch_size, served.augment, record.mean, record.std, last_batch=last_batch)
    return ClientImages(opened.gather(torch.arange(len(files))), torch.tensor(labels), len(names), settings)


@torch.no_grad()
def _accuracies(run: Run, images: ClientImages, personal: Tensors) -> Mapping[str, float]:
    """Accuracies of the generic and the new personal model on the client's images."""
    entries = {"generic": choose_model(run).personal} if "global" in run.method.views else {}
    found = {}
    for kind, own in {**entries, "personal": personal}.items():
        predictor = run.predictor("global" if kind == "generic" else "personal", own)
        right = predictor.predict_step(images.images).argmax(1) == images.labels
        found[kind] = float(right.double().mean())
    return found
