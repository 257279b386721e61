"""The methods, a file per paper."""

from fedloge.methods.base import Client, Method, Phase
from fedloge.methods.creff import CReFF
from fedloge.methods.ditto import Ditto
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.fedavg_ft import FedAvgFT
from fedloge.methods.fedbabu import FedBABU
from fedloge.methods.fedbn import FedBN
from fedloge.methods.fedetf import FedETF
from fedloge.methods.fedloge import FedLoGe
from fedloge.methods.fednh import FedNH
from fedloge.methods.fedper import FedPer
from fedloge.methods.fedprox import FedProx
from fedloge.methods.fedrep import FedRep
from fedloge.methods.fedrod import FedROD
from fedloge.methods.fedyoyo import FedYoYo
from fedloge.methods.logit_adjustment import LogitAdjustment
from fedloge.methods.ratio_loss import RatioLoss

__all__ = [
    "CReFF",
    "Client",
    "Ditto",
    "FedAvg",
    "FedAvgFT",
    "FedBABU",
    "FedBN",
    "FedETF",
    "FedLoGe",
    "FedNH",
    "FedPer",
    "FedProx",
    "FedROD",
    "FedRep",
    "FedYoYo",
    "LogitAdjustment",
    "Method",
    "Phase",
    "RatioLoss",
]
