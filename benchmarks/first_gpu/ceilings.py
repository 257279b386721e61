"""Stage 0: versions, what the device can do at most, and a tiny fit by ``fedloge fit``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks import machine
from benchmarks.first_gpu.record import Record, milliseconds, parser
from fedloge import cli
from fedloge.runs.folder import RunFolder

LAUNCHES = 1000
"""Kernels of one element in a row, of which the time is that of their launches."""
FIT = ("--config", str(machine.ROOT / "configs" / "quickstart.yaml"), "--trainer.rounds=2", "--trainer.local_epochs=1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status of the fit."""
    options: argparse.Namespace = parser("ceilings", __doc__).parse_args(arguments)
    record = Record.of(options)
    record.add("machine", **machine.machine(), cuda=torch.version.cuda, **_properties(record.device))
    for name, megabytes_per_s in copies(record.device, 2**24 if record.quick else 2**28):
        record.add(name, gb_per_s=megabytes_per_s / 1000)
    for name, teraflops in products(record.device, 256 if record.quick else 8192):
        record.add(name, tflop_per_s=teraflops)
    for name, microseconds in launches(record.device):
        record.add(name, us=microseconds)
    return tiny_fit(record)


def _properties(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    about = torch.cuda.get_device_properties(device)
    return {
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "gpu_memory_gib": round(about.total_memory / 2**30, 1),
    }


def copies(device: torch.device, count: int) -> Iterator[tuple[str, float]]:
    """MB/s of copies of so many bytes, counted as read and written on the device, and once between it and the host."""
    there = torch.zeros(count, dtype=torch.uint8, device=device)
    pairs = {"copy on the device": (torch.empty_like(there), there, 2 * count)}
    if device.type == "cuda":
        host = torch.zeros(count, dtype=torch.uint8, pin_memory=True)
        pairs |= {"copy to the device": (there, host, count), "copy to the host": (host, there, count)}
    for name, (target, source, moved) in pairs.items():
        spent = milliseconds(lambda to=target, of=source: to.copy_(of, non_blocking=True), device, times=5)  # type: ignore[misc]
        yield name, moved / spent / 1e3


def products(device: torch.device, size: int) -> Iterator[tuple[str, float]]:
    """TFLOP/s of square matrix products."""
    before = torch.get_float32_matmul_precision()
    kinds = {
        "float32": (torch.float32, "highest"),
        "TF32": (torch.float32, "high"),
        "bfloat16": (torch.bfloat16, before),
    }
    for name, (dtype, precision) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        spent = milliseconds(lambda a=first, b=second: a @ b, device, times=5, repeats=3)  # type: ignore[misc]
        yield f"product in {name}", 2 * size**3 / spent / 1e9
    torch.set_float32_matmul_precision(before)


def launches(device: torch.device) -> Iterator[tuple[str, float]]:
    """Microseconds per kernel of a row of kernels that do nothing to speak of: eagerly, and as a graph."""
    one = torch.zeros(1, device=device)

    def row() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    yield "eager launch", 1000 * milliseconds(row, device, times=1) / LAUNCHES
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            row()
        yield "launch in a graph", 1000 * milliseconds(graph.replay, device, times=1) / LAUNCHES


def tiny_fit(record: Record) -> int:
    """The quickstart for two rounds, with the executor that ``auto`` takes."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        code = cli.main(["fit", *FIT, f"--trainer.run_dir={folder}/run"])
        found = {"exit_status": code, "seconds": time.perf_counter() - began}
        if code == 0:
            summary = RunFolder(f"{folder}/run").read_json("summary.json")
            found |= {"gm": summary["global"]["acc"], "pm": summary["personal"]["acc_mean"]}
        record.add("fedloge fit", **found)
    return code


if __name__ == "__main__":
    sys.exit(main())
