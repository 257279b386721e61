"""Ctrl-C and SIGTERM, handled only where a run can stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal and has saved its last whole round.

    Args:
        signum: SIGINT or SIGTERM.
        saved: Message for the user that says what was saved.
    """

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(saved)
        self.signum = signum


class Interrupts:
    """While active, SIGINT and SIGTERM raise KeyboardInterrupt, but not inside :meth:`held_back`.

    Only the main thread receives signals; in other threads this does nothing.
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
        """Delay signals until the end of the block."""
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
