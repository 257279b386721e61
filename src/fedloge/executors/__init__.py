"""How the clients of a round are trained; every executor gives the same result."""

from fedloge.executors.base import ClientResult, ClientTask, Executor, LocalSettings
from fedloge.executors.serial import SerialExecutor

__all__ = ["ClientResult", "ClientTask", "Executor", "LocalSettings", "SerialExecutor"]
