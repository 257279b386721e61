"""Methods, data and clients for the tests of the cuda executor."""

import torch

from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.methods import (
    APFL,
    MOON,
    SCAFFOLD,
    CReFF,
    Ditto,
    FedAvg,
    FedBABU,
    FedBN,
    FedETF,
    FedGraB,
    FedLoGe,
    FedNH,
    FedPer,
    FedProx,
    FedRep,
    FedROD,
    LogitAdjustment,
    RatioLoss,
    pFedMe,
)
from fedloge.methods.base import ServerData
from harness import build

CAPTURED = [
    (FedAvg, {}),
    (FedAvg, {"pm": "local", "momentum": 0.0, "weight_decay": 0.1}),
    (FedProx, {"mu": 0.5}),
    (FedBN, {}),
    (FedPer, {}),
    (FedRep, {"head_epochs": 1, "body_epochs": 1}),
    (Ditto, {}),
    (FedROD, {"personal_lr": 0.1}),
    (FedLoGe, {"beta": 0.3, "gamma": 1.0}),
    (FedLoGe, {"beta": 0.3, "gamma": 1.0, "loss": "dr", "projection": True, "head_lr": 0.1}),
    (FedBABU, {}),
    (FedETF, {}),
    (FedETF, {"loss": "dr", "projection": "batchnorm"}),
    (FedNH, {}),
    (CReFF, {}),
    (LogitAdjustment, {}),
    (RatioLoss, {}),
    (SCAFFOLD, {}),
    (MOON, {}),
    (APFL, {}),
    (pFedMe, {"lam": 1.0}),
    (FedGraB, {}),
]


def five_clients():
    """Five clients; batch sizes 4, and 1 to 3 at the end of epochs."""
    module = FederatedDataModule(
        tiny_source(size=6),
        num_clients=5,
        imbalance_factor=4,
        batch_size=4,
        alpha=1.0,
        augment="crop_flip",
        auxiliary=3,
    )
    module.setup()
    return module


def prepared(method, data, **options):
    made = build(method, **options)
    made.server_data = ServerData(tuple(data.class_counts), data.auxiliary_set())
    made.prepare(torch.Generator().manual_seed(1))
    return made
