"""The class probabilities of all test images, as a table from which any number can be computed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.runs.run import Run
from fedloge.system.storage import clear_os_errors, write_whole

Row = dict[str, Any]


def write_predictions(run: Run, path: str | Path) -> Path:
    """Write a row per client and test image: client, path, true class, class probabilities of both models.

    An image that several clients are tested on has a row for each; one that no client is tested on has a row without a
    client and without the probabilities of a personal model.

    Args:
        run: Finished run; its final models are used.
        path: File to write, ``.csv`` or ``.parquet``.

    Raises:
        ConfigError: If the file has another ending, or pyarrow is not installed.
        RunError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError("predictions", str(path), "ends neither with .csv nor .parquet", "Choose one of them.")
    if path.suffix.lower() == ".parquet":
        _check_pyarrow(path)
    rows = list(prediction_rows(run))
    with clear_os_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".csv":
            write_whole(path, _csv(rows))
        else:
            _write_parquet(path, rows)
    return path


def prediction_rows(run: Run) -> Iterator[Row]:
    """The rows of :func:`write_predictions`."""
    parts, final, data = run.attach(), run.final, run.data
    evaluator, names = parts.evaluator, list(data.class_names)
    generic = evaluator.generic_logits(final)
    seen = torch.zeros(len(data.test_labels), dtype=torch.bool)
    paths: Sequence[Any] = data.dataset.test_paths or range(len(seen))

    def row(client: str, index: int, personal: Tensor | None) -> Row:
        about = {"client": client, "path": paths[index], "true": names[int(data.test_labels[index])]}
        models = {"generic": None if generic is None else generic[index], "personal": personal}
        return about | {
            f"{model} {name}": value
            for model, logits in models.items()
            for name, value in zip(names, _probabilities(logits, len(names)), strict=True)
        }

    if "personal" in run.method.views:
        for client, indices, logits in evaluator.client_logits(final, evaluator.mask_absent):
            seen[indices.cpu()] = True
            for index, own in zip(indices.tolist(), logits, strict=True):
                yield row(data.partition.label(client.id), index, own)
    for index in (~seen).nonzero().flatten().tolist():
        yield row("", index, None)


def _probabilities(logits: Tensor | None, classes: int) -> list[float] | list[str]:
    return [""] * classes if logits is None else [round(p, 6) for p in logits.float().softmax(0).tolist()]


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _check_pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        remedy = "Run `pip install 'fedloge[parquet]'`, or choose a .csv."
        raise ConfigError("predictions", str(path), "needs the package pyarrow", remedy) from error


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = [{key: None if value == "" else value for key, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(known), path)
