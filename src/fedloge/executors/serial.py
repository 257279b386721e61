"""One client after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedloge.executors.base import ClientResult, ClientTask, FederatedData, LocalSettings, train_client
from fedloge.methods.base import Method
from fedloge.state import ClientStore, SharedState


class SerialExecutor:
    """The reference executor: one module, trained for one client at a time.

    Args:
        method: The module that all clients use in turn.
        data: Where their batches come from.
        settings: How a local fit runs.
    """

    def __init__(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        self.method, self.data, self.settings = method, data, settings

    def run(self, shared: SharedState, clients: ClientStore, tasks: Iterable[ClientTask]) -> Iterator[ClientResult]:
        """Yield the result of every task in order."""
        for task in tasks:
            yield train_client(self.method, self.data, self.settings, task, shared, clients[task.client])
