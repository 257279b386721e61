"""Processes of a benchmark: with this checkout on their path, in a group of their own that ends with the block."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.machine import ROOT

PATIENCE = 3.0
"""Seconds that a process has to end by itself when it is asked to."""


def python_path(*folders: object) -> str:
    """``PYTHONPATH`` of a process: the given folders, this checkout, then what it was before."""
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(map(str, [*folders, ROOT, ROOT / "src", *filter(None, [before])]))


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process; whatever of it still runs at the end of the block is stopped."""
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and then end it with everything that it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(
    command: Sequence[str], environment: Mapping[str, str], seconds: float | None = None
) -> tuple[int | None, str, str]:
    """Run a process to its end, or stop it when the seconds are over.

    Returns:
        Exit status, None if it was stopped; standard output; standard error.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, environment, **pipes) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            return None, *process.communicate()
        return process.returncode, out, err
