"""Features of a dataset in a file, for training on features alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloge.config import build
from fedloge.data.embedding import embed_dataset
from fedloge.data.features import check_output, write_features
from fedloge.data.sources.base import Dataset
from fedloge.methods.base import Method
from fedloge.runs.locate import run_config
from fedloge.runs.run import load_run


def embed_source(args: Sequence[str], output: str | Path, run: str | None = None) -> Mapping[str, NDArray[Any]]:
    """Write the features of all images of a source, with labels, splits, sites and names of classes.

    Images are neither augmented nor made long-tailed.

    Args:
        args: Options of ``fedloge fit``, of which the method's backbone and the data count.
        output: ``.npz`` or ``.parquet`` file to write; see :class:`fedloge.data.sources.Features`.
        run: Run whose trained generic body is used; its options are the defaults. None uses the backbone as it is
            constructed, with its ``weights``.

    Returns:
        The arrays of the file.

    Raises:
        FedlogeError: If an option is wrong, or the file cannot be written.
    """
    check_output(output)
    cli = build([*(run_config(run) if run else ()), *args])
    method, data = cli.model, cli.datamodule
    if run:
        method.load_entries(load_run(run).final.shared.tensors)
    data.prepare_data()
    dataset = data.source.load()
    device = cli.trainer.strategy.root_device
    embedded = embed_dataset(dataset, body(method, device), data.batch_settings(device))
    arrays = _arrays(embedded, data.class_names)
    write_features(output, arrays)
    return arrays


def body(method: Method, device: torch.device) -> Any:
    """Function from images to the features of the generic model, in eval mode on a device."""
    method = method.eval().to(device)

    def features(images: Tensor) -> Tensor:
        return method.features(images, "global")

    return features


def _arrays(dataset: Dataset, class_names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a dataset of features, training rows first."""
    parts = [("train", dataset.train, dataset.train_labels), ("test", dataset.test, dataset.test_labels)]
    if dataset.val is not None and dataset.val_labels is not None:
        parts.insert(1, ("val", dataset.val, dataset.val_labels))
    rows = [images.gather(torch.arange(len(images))).flatten(1) for _, images, _ in parts]
    arrays: dict[str, NDArray[Any]] = {
        "features": torch.cat(rows).numpy(),
        "labels": torch.cat([labels for *_, labels in parts]).numpy(),
        "split": np.repeat([name for name, *_ in parts], [len(labels) for *_, labels in parts]),
        "class_names": np.array(class_names),
    }
    if dataset.train_users is not None:
        others = np.full(len(arrays["labels"]) - len(dataset.train_users), -1)
        arrays["site"] = np.concatenate([dataset.train_users.numpy(), others])
    return arrays
