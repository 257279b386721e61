"""Methods that fail, in a module of their own so that worker processes find them."""

import os

from fedloge.methods import FedAvg


class Fails(FedAvg):
    def local_losses(self, batch):
        raise ValueError("no loss today")


class Dies(FedAvg):
    def local_losses(self, batch):
        os._exit(9)
