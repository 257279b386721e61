"""``fedloge predict``: classes and probabilities of images."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloge.checks import check_choice
from fedloge.data.images import gather_batches
from fedloge.inference.images import find_images, open_images
from fedloge.inference.models import choose_model
from fedloge.runs.run import Run
from fedloge.system.live import track

Format = Literal["table", "csv", "json"]
BATCH_SIZE = 256


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model for an image.

    Args:
        image: Image file.
        class_name: Most probable class.
        probability: Probability of that class.
        probabilities: Probabilities of all classes [C].
    """

    image: Path
    class_name: str
    probability: float
    probabilities: Tensor


@torch.no_grad()
def predict_images(
    run: Run, paths: Sequence[str | Path], client: str | int | None = None, convert: bool = False
) -> Iterator[Prediction]:
    """Apply one of a run's models to image files, in their order.

    Args:
        run: Finished run.
        paths: Images, or folders of them.
        client: A client's number, or a new client's folder; the generic model by default.
        convert: Scale, crop and convert images that do not fit.

    Raises:
        FedlogeError: If the model or an image does not exist, or an image does not fit.
    """
    model = choose_model(run, client)
    predictor = run.predictor(model.view, model.personal).to(run.trainer.strategy.root_device)
    files = find_images(paths)
    images = open_images(files, run.record, convert)
    batches = torch.split(torch.arange(len(files)), BATCH_SIZE)
    pairs = zip(batches, gather_batches(images, batches), strict=True)
    for indices, batch in track(pairs, "images", len(files), lambda pair: len(pair[0])):
        probabilities = predictor.predict_step(batch.to(predictor.device)).cpu()
        for index, row in zip(indices.tolist(), probabilities, strict=True):
            best = int(row.argmax())
            yield Prediction(files[index], predictor.class_names[best], float(row[best]), row)


def print_predictions(predictions: Sequence[Prediction], names: Sequence[str], format: Format) -> None:
    """Print predictions on standard output: as a table, as CSV, or as JSON with the probabilities of all classes.

    Raises:
        ConfigError: If the format is unknown.
    """
    check_choice("format", format, get_args(Format))
    if format == "json":
        rows = [
            {
                "image": str(one.image),
                "class": one.class_name,
                "probability": one.probability,
                "probabilities": dict(zip(names, one.probabilities.tolist(), strict=True)),
            }
            for one in predictions
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "class", "probability"])
        writer.writerows([one.image, one.class_name, f"{one.probability:.6f}"] for one in predictions)
    else:
        width = max(len(str(one.image)) for one in predictions)
        columns = max(5, *(len(one.class_name) for one in predictions))
        print(f"{'image':<{width}}  {'class':<{columns}}  probability")
        for one in predictions:
            print(f"{one.image!s:<{width}}  {one.class_name:<{columns}}  {one.probability:.4f}")
