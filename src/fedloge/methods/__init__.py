"""The methods, a file per paper."""

from fedloge.methods.base import Client, Method, Phase
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.fedloge import FedLoGe

__all__ = ["Client", "FedAvg", "FedLoGe", "Method", "Phase"]
