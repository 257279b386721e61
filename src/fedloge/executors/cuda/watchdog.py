"""A watchdog for work on a device: one that hangs raises no error and lets no signal through."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

LIMIT = 60.0
"""Seconds that a lane may take for a step, or for the few steps that the host is ahead."""


def end_process(message: str) -> None:
    """Print an error and end the process at once, since its main thread waits for the device."""
    print(f"fedloge: error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


class Watchdog:
    """Ends the process when a watched block takes too long; used as a context around all such blocks.

    Args:
        end: Function that is called with the message, from another thread.
    """

    def __init__(self, end: Callable[[str], None] = end_process) -> None:
        self.limit = LIMIT
        self._end = end
        self._since: float | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        self._done.clear()
        self._thread = threading.Thread(target=self._watch, name="fedloge-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _watch(self) -> None:
        while not self._done.wait(min(self.limit / 4, 1.0)):
            since = self._since
            if since is not None and time.monotonic() - since > self.limit:
                self._end(
                    f"a step on the GPU has not finished within {self.limit:.0f} s, so the run ends; `fedloge resume` "
                    "continues from its last checkpoint. Take --trainer.executor.lanes=1, or "
                    "--trainer.executor=cuda --trainer.executor.graphs=false."
                )
                return
