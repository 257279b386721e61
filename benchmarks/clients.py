"""Peak memory by the number of clients: ``python -m benchmarks.clients --clients 100 1000 10000``.

FedLoGe on images of 8 x 8 pixels, two per client, everyone in every round, so that every client comes to have a head of
its own. Each number of clients is a process of its own; the result goes to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, about, write
from benchmarks.run import positive

NUM_CLASSES, IMAGES_PER_CLIENT = 10, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of clients and write the results after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__)
    parser.add_argument("--clients", type=positive, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--memory_limit", type=int, default=2**20, help="bytes of personal states kept in memory")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--only", type=positive, help=argparse.SUPPRESS)
    known = parser.parse_args(arguments)
    if known.only:
        print(json.dumps(measure(known.only, known.memory_limit)))
        return
    content, runs = about("clients"), []
    path = known.output or RESULTS / f"clients-{content['date']}.json"
    for count in known.clients:
        command = [sys.executable, "-m", "benchmarks.clients", "--only", str(count)]
        command += ["--memory_limit", str(known.memory_limit)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(runs[-1])
        write(path, {**content, "runs": runs})
    print(path)


def measure(num_clients: int, memory_limit: int) -> dict[str, Any]:
    """One round with every client, in this process."""
    import torch

    import fedloge.federation.state
    from fedloge.data import Arrays, FederatedDataModule
    from fedloge.methods import FedLoGe
    from fedloge.models import SmallCNN
    from fedloge.trainer import FederatedTrainer

    torch.set_num_threads(1)
    fedloge.federation.state.MEMORY_LIMIT_BYTES = memory_limit
    generator = torch.Generator().manual_seed(0)
    count = num_clients * IMAGES_PER_CLIENT
    labels, test_labels = torch.arange(count) % NUM_CLASSES, torch.arange(1000) % NUM_CLASSES
    images, test = (torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8) for n in (count, 1000))
    data = FederatedDataModule(
        Arrays(images, labels, test, test_labels, name="noise"),
        num_clients=num_clients,
        imbalance_factor=1,
        scheme="iid",
        min_samples=1,
    )
    method = FedLoGe(SmallCNN((32, 64), in_channels=1), NUM_CLASSES, gamma=1.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = FederatedTrainer(
            rounds=1, local_epochs=1, accelerator="cpu", executor="serial", run_dir=f"{folder}/run", threads=1
        )
        began = time.perf_counter()
        trainer.fit(method, datamodule=data)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    head = sum(t.numel() * t.element_size() for t in method.personal_entries().values())
    return {
        "clients": num_clients,
        "peak_memory_bytes": peak,
        "personal_bytes": head * num_clients,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
