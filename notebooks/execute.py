"""Execute the notebooks and keep their outputs: ``python notebooks/execute.py [NOTEBOOK ...]``."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient
from torch.nn import functional

from fedloge.models import SmallCNN

FOLDER = Path(__file__).parent
TIMEOUT = 300
"""Seconds for a cell."""


def execute(path: Path) -> Any:
    """The notebook with fresh outputs, without times or versions of this machine.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=_environment())
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        output.get("metadata", {}).pop(
            "needs_background", None
        )  # the figures suit light and dark pages
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {
        "kernelspec": kernel,
        "language_info": {"name": "python"},
        "rounding": rounding(),
    }
    return notebook


def rounding() -> str:
    """Hash of a training step's gradients: machines on which it is the same train the same models.

    Another processor or torch adds in another order, and training amplifies the last bit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, images = SmallCNN((32, 64), in_channels=1), torch.rand(8, 1, 8, 8)
    loss = functional.cross_entropy(net(images), torch.arange(8))
    gradients = torch.autograd.grad(loss, [*net.parameters()])
    return hashlib.sha256(
        b"".join(gradient.numpy().tobytes() for gradient in gradients)
    ).hexdigest()[:12]


def _environment() -> dict[str, str]:
    """One thread of the CPU, this environment's ``fedloge``, and no colours from rich."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cpu = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **cpu, "PATH": path, "TTY_COMPATIBLE": "0"}


def main(names: list[str]) -> None:
    """Execute the notebooks named, or all, in place."""
    torch.set_num_threads(1)
    for path in map(Path, names) if names else sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(f"{path.stat().st_size:>9,} bytes  {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
