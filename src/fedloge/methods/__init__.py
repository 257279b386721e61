"""The methods, a file per paper."""

from fedloge.methods.base import Client, Method, Phase
from fedloge.methods.ditto import Ditto
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.fedavg_ft import FedAvgFT
from fedloge.methods.fedbabu import FedBABU
from fedloge.methods.fedbn import FedBN
from fedloge.methods.fedetf import FedETF
from fedloge.methods.fedloge import FedLoGe
from fedloge.methods.fedper import FedPer
from fedloge.methods.fedprox import FedProx
from fedloge.methods.fedrep import FedRep
from fedloge.methods.fedrod import FedROD

__all__ = [
    "Client",
    "Ditto",
    "FedAvg",
    "FedAvgFT",
    "FedBABU",
    "FedBN",
    "FedETF",
    "FedLoGe",
    "FedPer",
    "FedProx",
    "FedROD",
    "FedRep",
    "Method",
    "Phase",
]
