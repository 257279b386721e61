"""Methods that go wrong, in a module of their own so that worker processes find them."""

import multiprocessing
import os
import threading
import zlib

import torch

from fedloge.methods import FedAvg


class FailsAtTwo(FedAvg):
    def local_losses(self, batch):
        if self.client.id == 2:
            raise ValueError("no loss today")
        return super().local_losses(batch)


class DivergesAtTwo(FedAvg):
    def local_losses(self, batch):
        (loss,) = super().local_losses(batch).values()
        return {"ce": loss * float("nan") if self.client.id == 2 else loss}


class DiesAtTwo(FedAvg):
    def local_losses(self, batch):
        if self.client.id == 2:
            os._exit(9)
        return super().local_losses(batch)


class Locked(FedAvg):
    """It cannot be copied or sent."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.lock = threading.Lock()


class LoadsAtHome(FedAvg):
    """It cannot be loaded in a worker."""

    def __setstate__(self, state):
        if multiprocessing.parent_process() is not None:
            raise ValueError("no state like this")
        super().__setstate__(state)


def is_faulty(client, round, share):
    """Whether a fifth, say, of all pairs of client and round has this one."""
    return zlib.crc32(f"{client}/{round}".encode()) % 1000 < 1000 * share


class Faulty(FedAvg):
    """One in five client tasks raises, or returns NaN or infinity."""

    share = 0.2

    def local_losses(self, batch):
        (loss,) = super().local_losses(batch).values()
        if is_faulty(self.client.id, self.client.round, self.share):
            match self.client.id % 3:
                case 0:
                    raise ArithmeticError("as asked for")
                case 1:
                    loss = loss * float("nan")
                case _:
                    loss = loss * 1e38 * torch.tensor(1e38)
        return {"ce": loss}
