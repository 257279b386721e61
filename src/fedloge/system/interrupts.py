"""Ctrl-C, SIGTERM and SIGHUP, which end a run where it can stop; and processes that end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""SIGHUP, which a terminal sends when it closes; None on Windows."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal and has saved its last whole round.

    Args:
        signum: SIGINT, SIGTERM or SIGHUP.
        saved: Message for the user that says what was saved.
    """

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(saved)
        self.signum = signum


class Interrupts:
    """While active, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, but not inside :meth:`held_back`.

    SIGHUP stays ignored where it is, as under ``nohup``. Only the main thread receives signals; in other threads this
    does nothing.
    """

    def __init__(self) -> None:
        self.signum: int = signal.SIGINT
        self._held, self._pending, self._ignoring = 0, False, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._arrive) for number in _signals()}
            unblock()
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

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Ignore signals in the block: the run is ending already, and saves what it has."""
        before, self._ignoring = self._ignoring, True
        try:
            yield
        finally:
            self._ignoring = before

    def _arrive(self, signum: int, frame: FrameType | None) -> None:
        if self._ignoring:
            return
        self.signum = signum
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt


def _signals() -> list[int]:
    return [n for n in _ending() if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN]


def forkserver_context(preload: list[str]) -> Any:
    """A context for processes that inherit no threads: a server that has imported ``preload`` forks them where it can.

    The signals that end a run are blocked in the server, also while it imports, and in its children, until these call
    :func:`unblock`: what a terminal sends to all its processes at once is for the parent to handle.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    resource_tracker.ensure_running()  # which would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ending())
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def unblock() -> None:
    """Let the signals that end a run through, which :func:`forkserver_context` blocks."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ending())


def _ending() -> list[int]:
    return [signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP])]


def terminate_self() -> None:
    """Send SIGTERM to the main thread of this process, from any thread."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGTERM)  # interrupts a system call that it waits in
    else:
        signal.raise_signal(signal.SIGTERM)


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call ``end`` in a thread of its own when the process that started this one ends, killed or not.

    Args:
        end: Ends this process; at once by default.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        end()

    if parent is not None:
        threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
