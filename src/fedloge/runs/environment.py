"""Versions and machine of a run, for ``environment.json``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedloge.system.imports import installed_version

PACKAGES = ("fedloge", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")

CHECKOUT = Path(__file__).resolve().parents[3]
"""The repository, if the package is imported from one: that of ``src/fedloge``."""


def environment() -> dict[str, Any]:
    """Versions (None for what is not installed), machine, threads, git commit and command."""
    return {
        "python": platform.python_version(),
        **{package: installed_version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(CHECKOUT) or _installed_commit(),
        "command": sys.argv[1:],
    }


def git_commit(checkout: Path) -> str | None:
    """Commit of a repository whose root is that folder; None if it lies in another repository, or in none.

    A package in a virtual environment often lies in the repository of its user, whose commit says nothing about it.
    """
    command = ["git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # set in git's hooks
    try:
        found = subprocess.run(command, capture_output=True, timeout=5, check=True, env=own).stdout
        root, commit = os.fsdecode(found).splitlines()
        return commit if Path(root).samefile(checkout) else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _installed_commit() -> str | None:
    """The commit that pip recorded if it installed the package from a repository (PEP 610)."""
    try:
        origin = metadata.distribution("fedloge").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    commit: str | None = json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return commit
