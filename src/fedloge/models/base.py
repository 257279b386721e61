"""Base class of the backbones."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """The body θ of a classifier: images in, features h ∈ R^d out, no head.

    A subclass sets the two attributes and implements ``forward``: float32 [n, in_channels, H, W] to [n, out_features].

    Attributes:
        in_channels: Channels of the images it takes.
        out_features: Feature size d.
    """

    in_channels: int
    out_features: int

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, out_features] of a batch of images."""
        raise NotImplementedError
