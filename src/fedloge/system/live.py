"""A line on standard error about a long computation: what is done, how far it is, and how much time is left."""

from __future__ import annotations

import operator
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

FIRST, NEXT = 5.0, 10.0
"""Age in seconds from which work has a plain line, and seconds between two, where there is no terminal."""

REDRAW, BRIEF = 0.2, 1.0
"""Seconds between two drawings on a terminal, and the age from which a line is worth drawing."""

CLEAR = "\r\x1b[K"
"""Return to the beginning of the line of a terminal, and clear it."""

_open: list[Line] = []
_suspended = threading.Event()


class Line:
    """Work in progress; :func:`drawn` shows it together with the work around it.

    Args:
        what: What is done, for example ``features of the test images``.
        total: Number of steps; None where it is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0.0
        self.began = time.monotonic()

    def __enter__(self) -> Line:
        self.began = time.monotonic()
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)

    def advance(self, steps: float = 1) -> None:
        """Count steps that are done."""
        self.done += steps

    def count(self) -> str:
        """What is done, and how many steps."""
        return self.what if self.total is None else f"{self.what} {int(self.done)}/{self.total}"

    def left(self) -> str:
        """The time that is left, or that has passed where the rest is not known."""
        passed = time.monotonic() - self.began
        if self.total is None or not self.done:
            return f"{duration(passed)} so far"
        return f"{duration(passed * max(self.total - self.done, 0) / self.done)} left"


def track(
    items: Iterable[Item], what: str, total: int | None = None, steps: Callable[[Item], float] = lambda item: 1
) -> Iterator[Item]:
    """Yield the items with a :class:`Line`.

    Args:
        items: Items of the work.
        what: What is done.
        total: Number of steps; the number of items by default, as far as that is known.
        steps: Number of steps of an item.
    """
    with Line(what, total if total is not None else operator.length_hint(items) or None) as line:
        for item in items:
            yield item
            line.advance(steps(item))


def text(plain: bool = False) -> str:
    """The open lines in one, from the outermost to the innermost; empty where the first is young."""
    lines = list(_open)
    if not lines or time.monotonic() - lines[0].began < (FIRST if plain else BRIEF):
        return ""
    timed = next((line for line in lines if line.total is not None and line.done), lines[-1])
    return f"{': '.join(line.count() for line in lines)}, {timed.left()}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def suspend(suspended: bool) -> None:
    """Do not draw for now, since another live view has the terminal; or draw again."""
    _suspended.set() if suspended else _suspended.clear()


@contextmanager
def drawn() -> Iterator[None]:
    """Draw the open lines inside: over each other on a terminal, elsewhere as a plain line every ten seconds."""
    stop = threading.Event()
    thread = threading.Thread(target=_redraw if sys.stderr.isatty() else _print, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        suspend(False)


def _redraw(stop: threading.Event) -> None:
    shown = ""
    while not stop.wait(REDRAW):
        line = "" if _suspended.is_set() else text()
        if line or shown:
            print(CLEAR + line, end="", file=sys.stderr, flush=True)
        shown = line
    if shown:
        print(CLEAR, end="", file=sys.stderr, flush=True)


def _print(stop: threading.Event) -> None:
    wait = FIRST
    while not stop.wait(wait):
        line = text(plain=True)
        wait = NEXT if line else REDRAW
        if line:
            print(line, file=sys.stderr, flush=True)
