"""A long run keeps its memory and its file handles. FEDLOGE_SOAK_ROUNDS=2000 makes it as long as the documented one."""

import os
import resource
import statistics
from pathlib import Path

import pytest

from fedloge.callbacks import FederatedCallback
from tiny_runs import run_tiny

ROUNDS = int(os.environ.get("FEDLOGE_SOAK_ROUNDS", "150"))
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


class Watch(FederatedCallback):
    """Notes resident memory, open files and the time of every round."""

    def __init__(self):
        self.memory, self.handles = [], []

    def on_round_end(self, trainer, round, metrics):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * resource.getpagesize())
        self.handles.append(len(list(Path("/proc/self/fd").iterdir())))


@pytest.mark.slow
def test_memory_and_handles_stay_flat(tmp_path):
    watch = Watch()
    run_tiny(tmp_path / "run", rounds=ROUNDS, checkpoint_every=10, callbacks=[watch], executor="serial")
    third = ROUNDS // 3
    early, late = statistics.median(watch.memory[third : third + 20]), statistics.median(watch.memory[-20:])
    print(f"memory {early / 2**20:.1f} MiB after {third} rounds, {late / 2**20:.1f} MiB after {ROUNDS}")
    assert late <= 1.05 * early
    assert watch.handles[-1] <= watch.handles[third]
