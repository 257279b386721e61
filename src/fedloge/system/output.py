"""Standard output and error that never end a program: a closed pipe is quiet, and letters may be replaced."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lenient:
    """A text stream that drops what it cannot write.

    When the reader has gone, the terminal has closed or the disk is full, the rest of the output is dropped. A letter
    that the encoding lacks is replaced.

    Args:
        stream: Stream to write to; None, for a standard stream that was closed from the start, drops everything.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._divert()
        except ValueError:
            if not self._stream.closed:
                raise

    def _divert(self) -> None:
        """Let the stream's file descriptor lead nowhere, for what the stream has buffered too."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def lenient_output() -> Iterator[None]:
    """Make standard output and error :class:`Lenient` inside."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Lenient(sys.stdout), Lenient(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
