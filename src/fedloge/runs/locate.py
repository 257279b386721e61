"""Finding a run folder and the options that repeat its run, without torch."""

from __future__ import annotations

from pathlib import Path

from fedloge.errors import RunError

MARKER = "environment.json"
"""First file that a run writes; a folder without it is not a run."""


def require_run(path: str | Path) -> Path:
    """Path of a run folder.

    Raises:
        RunError: If the folder is not a run.
    """
    if not (Path(path) / MARKER).is_file():
        raise RunError(f"{str(path)!r} is not a run: it has no {MARKER}. Give the folder that fit wrote.")
    return Path(path)


def run_config(path: str | Path) -> list[str]:
    """Options of ``fedloge fit`` that repeat a run on the same partition.

    Raises:
        RunError: If the folder is not a run of ``fedloge fit``.
    """
    folder = require_run(path)
    config = folder / "config.yaml"
    if not config.is_file():
        raise RunError(
            f"{str(path)!r} has no config.yaml: the run was not started by `fedloge fit`. In Python, "
            "fedloge.Run(path, trainer, method, data) opens it."
        )
    return ["--config", str(config), f"--data.partition_file={folder / 'partition.json'}"]
