"""One client after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedloge.executors.base import ClientTask, Executor, Outcome
from fedloge.executors.client import attempt_client
from fedloge.federation.state import ClientStore, SharedState


class Serial(Executor):
    """The reference executor: one module, trained for one client at a time."""

    fixed_workers = True

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the outcome of every task in order."""
        for task in tasks:
            yield attempt_client(self.method, self.data, self.settings, task, shared, clients[task.client])
