"""How the clients of a round are trained; every executor gives the same result."""

from fedloge.executors.base import ClientResult, ClientTask, Executor, LocalSettings
from fedloge.executors.serial import SerialExecutor

EXECUTORS = {"auto": SerialExecutor, "serial": SerialExecutor}
"""By the name that ``trainer.executor`` gives them."""

__all__ = ["EXECUTORS", "ClientResult", "ClientTask", "Executor", "LocalSettings", "SerialExecutor"]
