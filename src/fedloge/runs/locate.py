"""Finding a run folder and the options that repeat its run, without torch."""

from __future__ import annotations

from pathlib import Path

import yaml

from fedloge.errors import RunError
from fedloge.options import read_mapping

MARKER = "environment.json"
"""First file that a run writes; a folder without it is not a run."""

RECORDED = "fedloge.data.sources.recorded.Recorded"


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
    config = _config(path)
    return ["--config", str(config), f"--data.partition_file={config.parent / 'partition.json'}"]


def config_without_data(path: str | Path, record: Path) -> list[str]:
    """Options like those of :func:`run_config` with a run's record of its data in place of their source.

    Raises:
        RunError: If the folder is not a run of ``fedloge fit``.
    """
    config = _config(path)
    options = read_mapping(config, "--config")
    options["data"]["source"] = {"class_path": RECORDED, "init_args": {"file": str(record)}}
    return ["--config", yaml.safe_dump(options), f"--data.partition_file={config.parent / 'partition.json'}"]


def _config(path: str | Path) -> Path:
    folder = require_run(path)
    config = folder / "config.yaml"
    if not config.is_file():
        raise RunError(
            f"{str(path)!r} has no config.yaml: the run was not started by `fedloge fit`. In Python, "
            "fedloge.Run(path, trainer, method, data) opens it."
        )
    return config
