"""``fedloge export``: a run's models as files for use elsewhere, one body and a small head for each model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedloge.errors import FedlogeError
from fedloge.inference.models import Model, all_models, choose_model, free_folder, shared_sha256
from fedloge.inference.predictor import Predictor
from fedloge.runs.folder import RunFolder
from fedloge.runs.run import Run
from fedloge.system.live import track
from fedloge.system.storage import clear_os_errors, whole

Format = Literal["safetensors", "onnx", "torchscript"]
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt"}
ABOUT, UNFINISHED = "model.json", "unfinished.json"


class Body(nn.Module):
    """Maps images float32 [n, channels, H, W] in [0, 1] to features [n, d]; includes the normalisation."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.method, self.view = predictor.method, predictor.view
        self.register_buffer("mean", predictor.mean)
        self.register_buffer("std", predictor.std)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Features."""
        return self.method.features((images - self.mean) / self.std, self.view)


class Head(nn.Module):
    """Maps features [n, d] to logits [n, C]."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.method, self.view = predictor.method, predictor.view

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        return self.method.logits(features, self.view)


def export_models(run: Run, client: str | int | None, format: Format, output: str | Path) -> list[Path]:
    """Write models to a folder, with a ``model.json`` that lists the files of each model.

    Models that share the body share its file; one with a body of its own gets a file for it. ONNX and TorchScript files
    map images to features and features to logits. Safetensors files hold the entries of the method's ``state_dict``.
    An export that was stopped goes on with the models that are missing.

    Args:
        run: Finished run.
        client: A client's number or name, a new client's folder, ``all`` (every model), or None (the generic one).
        format: Format of the files.
        output: New or empty folder, or that of the same export if it was stopped.

    Returns:
        Files that were written.

    Raises:
        FedlogeError: If the model does not exist, the folder is not empty, or a package is missing.
    """
    check_format(format)
    models = all_models(run) if client == "all" else [choose_model(run, client)]
    folder = Path(output)
    asked = {"shared_sha256": shared_sha256(run), "format": format, "client": None if client is None else str(client)}
    if not (folder / UNFINISHED).is_file() or RunFolder(folder).read_json(UNFINISHED) != asked:
        free_folder(folder, "output")
    writer, named = Writer(folder, format, asked), bool(run.partition.names)
    entries = {
        model.name: writer.write(run, model) | ({"client": model.client} if named and model.client else {})
        for model in track(models, "models")
    }
    record = run.record
    about = {
        "method": type(run.method).__name__,
        "format": format,
        "image": {"channels": record.channels, "size": record.image_size, "mean": record.mean, "std": record.std},
        "normalisation": "by you: (x - mean) / std of x in [0, 1]" if format == "safetensors" else "in the body",
        "classes": list(record.class_names),
        "models": entries,
    }
    RunFolder(folder).write_json(ABOUT, about)
    (folder / UNFINISHED).unlink()
    return [*writer.files, folder / ABOUT]


def check_format(format: Format) -> None:
    """Check that the packages of a format are installed.

    Raises:
        FedlogeError: If not; names what to install.
    """
    missing = [name for name in ("onnx", "onnxscript") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise FedlogeError(f"--format=onnx needs {' and '.join(missing)}. Run `pip install {' '.join(missing)}`.")


class Writer:
    """Writes bodies and heads, a shared body once.

    Args:
        folder: Folder for the files.
        format: Format of the files.
        asked: What is exported, which is noted in the folder until everything is there.
    """

    def __init__(self, folder: Path, format: Format, asked: Mapping[str, Any]) -> None:
        self.folder, self.format, self.asked = folder, format, asked
        self.files: list[Path] = []

    def write(self, run: Run, model: Model) -> dict[str, str]:
        """Write a model's head, and its body unless it is already written; returns their file names."""
        own_body = run.method.has_own_body(model.personal)
        predictor = freeze_flags(run.predictor(model.view, model.personal))
        record = run.record
        images = torch.rand(2, record.channels, record.image_size, record.image_size)
        body, head = Body(predictor).eval(), Head(predictor).eval()
        names = {"body": f"{model.name}-body" if own_body else "body", "head": model.name}
        paths = {part: self.folder / f"{name}{SUFFIXES[self.format]}" for part, name in names.items()}
        if paths["body"] not in self.files:
            self._save(body, images, paths["body"], "images", "features")
        with torch.no_grad():
            features = body(images)
        self._save(head, features, paths["head"], "features", "logits")
        return {part: path.name for part, path in paths.items()}

    def _save(self, part: nn.Module, example: Tensor, path: Path, takes: str, gives: str) -> None:
        save: dict[str, Callable[..., None]] = {
            "safetensors": _save_entries,
            "onnx": _save_onnx,
            "torchscript": _save_torchscript,
        }
        if not path.is_file():
            with clear_os_errors(str(path)), whole(path) as temporary, _quiet(), torch.no_grad():
                save[self.format](part, example, temporary, takes, gives)
                RunFolder(self.folder).write_json(UNFINISHED, self.asked)
        self.files.append(path)


def freeze_flags(predictor: Predictor) -> Predictor:
    """Turn the flags that a method branches on into Python values: a graph has no branches, and flags do not change."""
    for module in predictor.method.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.dtype == torch.bool and buffer.ndim == 0:
                delattr(module, name)
                setattr(module, name, bool(buffer))
    return predictor


def _program(part: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(part, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))


def _save_entries(part: nn.Module, example: Tensor, path: Path, *_: str) -> None:
    """Save the entries of the method's state that the part uses."""
    program = _program(part, example)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    used = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    state = part.state_dict()
    entries = {name.removeprefix("method."): state[name] for name in sorted(used) if name.startswith("method.")}
    save_file({name: tensor.clone().contiguous() for name, tensor in entries.items()}, path)


def _save_onnx(part: nn.Module, example: Tensor, path: Path, takes: str, gives: str) -> None:
    program = _program(part, example)
    torch.onnx.export(
        program, (), path, dynamo=True, input_names=[takes], output_names=[gives], external_data=False, verbose=False
    )


def _save_torchscript(part: nn.Module, example: Tensor, path: Path, *_: str) -> None:
    """Save a traced and frozen graph, which leaves out what the part does not use."""
    graph = _program(part, example).module()
    traced: Any = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.freeze(traced.eval()).save(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's reports and torch's deprecation warnings about TorchScript."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
