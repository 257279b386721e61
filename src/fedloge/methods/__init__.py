"""The methods, a file per paper."""

from fedloge.methods.apfl import APFL
from fedloge.methods.base import Client, Method, Phase
from fedloge.methods.ccvr import CCVR
from fedloge.methods.creff import CReFF
from fedloge.methods.ditto import Ditto
from fedloge.methods.fedadam import FedAdam
from fedloge.methods.fedala import FedALA
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.fedavg_ft import FedAvgFT
from fedloge.methods.fedavgm import FedAvgM
from fedloge.methods.fedbabu import FedBABU
from fedloge.methods.fedbn import FedBN
from fedloge.methods.feddyn import FedDyn
from fedloge.methods.fedetf import FedETF
from fedloge.methods.fedgrab import FedGraB
from fedloge.methods.fedlc import FedLC
from fedloge.methods.fedlf import FedLF
from fedloge.methods.fedloge import FedLoGe
from fedloge.methods.fednh import FedNH
from fedloge.methods.fednpc import FedNPC
from fedloge.methods.fedntd import FedNTD
from fedloge.methods.fedpac import FedPAC
from fedloge.methods.fedper import FedPer
from fedloge.methods.fedproto import FedProto
from fedloge.methods.fedprox import FedProx
from fedloge.methods.fedrela import FedReLa
from fedloge.methods.fedrep import FedRep
from fedloge.methods.fedrod import FedROD
from fedloge.methods.fedyogi import FedYogi
from fedloge.methods.fedyoyo import FedYoYo
from fedloge.methods.local_only import LocalOnly
from fedloge.methods.logit_adjustment import LogitAdjustment
from fedloge.methods.moon import MOON
from fedloge.methods.pfedme import pFedMe
from fedloge.methods.ratio_loss import RatioLoss
from fedloge.methods.scaffold import SCAFFOLD

__all__ = [
    "APFL",
    "CCVR",
    "MOON",
    "SCAFFOLD",
    "CReFF",
    "Client",
    "Ditto",
    "FedALA",
    "FedAdam",
    "FedAvg",
    "FedAvgFT",
    "FedAvgM",
    "FedBABU",
    "FedBN",
    "FedDyn",
    "FedETF",
    "FedGraB",
    "FedLC",
    "FedLF",
    "FedLoGe",
    "FedNH",
    "FedNPC",
    "FedNTD",
    "FedPAC",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedROD",
    "FedReLa",
    "FedRep",
    "FedYoYo",
    "FedYogi",
    "LocalOnly",
    "LogitAdjustment",
    "Method",
    "Phase",
    "RatioLoss",
    "pFedMe",
]
