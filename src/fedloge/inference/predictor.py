"""A trained model, ready to be applied to images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fedloge.methods.base import Method, View


class Predictor(LightningModule):
    """One of the 1 + K models as a module of its own.

    Args:
        method: Method with the model's state loaded; it is not copied.
        view: Generic or personal model.
        mean: Mean per channel of images scaled to [0, 1].
        std: Standard deviation per channel of images scaled to [0, 1].
        class_names: Names of the C classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        method: Method,
        view: View,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
    ) -> None:
        super().__init__()
        self.method, self.view, self.class_names = method, view, tuple(class_names)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, C] of images [n, channels, H, W], uint8 or float in [0, 1], or of stored features [n, d]."""
        images = images[:, :, None, None] if images.ndim == 2 else images
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        normalised = ((scaled - self.mean) / self.std).to(next(self.method.parameters()).dtype)
        return self.method.logits(self.method.features(normalised, self.view), self.view)

    def predict_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Class probabilities [n, C]; a batch is images, or images first and anything after."""
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        probabilities: Tensor = self(images).softmax(1)
        return probabilities
