"""Versions and machine of a run, for ``environment.json``."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fedloge.system.imports import installed_version

PACKAGES = ("fedloge", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")


def environment() -> dict[str, Any]:
    """Versions (None for what is not installed), machine, threads, git commit and command."""
    return {
        "python": platform.python_version(),
        **{package: installed_version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": sys.argv[1:],
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
