"""How the clients of a round are trained: one at a time, or several at once."""

from __future__ import annotations

import multiprocessing

from fedloge.executors.base import ClientFailure, ClientResult, ClientTask, Executor, LocalSettings, Outcome
from fedloge.executors.cuda import Cohort, obstacle
from fedloge.executors.processes import Processes, num_cores
from fedloge.executors.ray import Ray
from fedloge.executors.serial import Serial
from fedloge.methods.base import Method

__all__ = [
    "ClientFailure",
    "ClientResult",
    "ClientTask",
    "Cohort",
    "Executor",
    "LocalSettings",
    "Outcome",
    "Processes",
    "Ray",
    "Serial",
    "make_executor",
]

PAYS_FROM = 1e10
"""Image passes times parameters from which on starting workers, some seconds, is worth it: about a minute of work."""

BY_NAME: dict[str, type[Executor]] = {"serial": Serial, "processes": Processes, "ray": Ray, "cuda": Cohort}


def make_executor(asked: Executor | str, work: float, method: Method, settings: LocalSettings) -> Executor:
    """The executor that was asked for, by name or ready-made; ``auto`` looks at how much there is to do, and where."""
    if isinstance(asked, Executor):
        return asked
    if asked == "auto":
        alone = num_cores() == 1 or multiprocessing.parent_process() is not None
        if settings.device.type == "cuda":
            asked = "serial" if obstacle(method, settings) else "cuda"
        else:
            asked = "serial" if alone or settings.device.type != "cpu" or work < PAYS_FROM else "processes"
    return BY_NAME[asked]()
