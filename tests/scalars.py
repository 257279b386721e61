"""Methods on one scalar weight and two clients, whose expected values are worked out on paper."""

import torch
from torch import nn

from fedloge.methods import FedAvg
from fedloge.models import Backbone


class Weight(Backbone):
    """A body with one weight w, which ignores its images."""

    in_channels, out_features = 1, 1

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return self.w.expand(len(images), 1)


class Square(FedAvg):
    """Pulls w towards the image x by the loss (w - x)² / 2; the head has no part in it."""

    def local_losses(self, batch):
        return {"square": (self.backbone.w - batch[0].mean()).square() / 2}


class TwoClients:
    """Client 0 holds one example x = 4, client 1 three examples x = 8; one batch an epoch."""

    num_clients = 2
    values = ((4.0, 1), (8.0, 3))

    def client_counts(self, client):
        return (self.values[client][1], 0)

    def client_batches(self, client, device=None):
        value, count = self.values[client]
        return [(torch.full((count, 1, 1, 1), value), torch.zeros(count, dtype=torch.long))]

    def client_loader(self, client, *, seed, round, phase=0):
        return Batches(self.client_batches(client))


class Batches:
    """An iterable with a length; a plain list would be taken for several loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def on_scalar(method, **options):
    """A method with one weight, trained by the squared distance, without momentum and with learning rate 0.5."""
    made = type(f"Scalar{method.__name__}", (method, Square), {})
    return made(Weight(), 2, **{"lr": 0.5, "momentum": 0.0} | options)
