"""Ctrl-C and SIGTERM at a moment of our choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and has saved what it had.

    Args:
        signum: SIGINT or SIGTERM.
        saved: What was saved, for the user.
    """

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(saved)
        self.signum = signum


class Interrupts:
    """While active, SIGINT and SIGTERM raise KeyboardInterrupt, but never inside :meth:`held_back`.

    Signals reach the main thread alone; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.signum: int = signal.SIGINT
        self._held, self._pending = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._arrive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """What must not be cut in two; a signal that arrives meanwhile counts afterwards."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending and not self._held:
            self._pending = False
            raise KeyboardInterrupt

    def _arrive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt
