import ctypes
import subprocess
import sys

import pytest
import torch

from fedloge.system.cpu import configure_cpu, keep_freed_memory

FAULTS = """
import resource, torch
from fedloge.system.cpu import configure_cpu
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
first = faults()
configure_cpu(1)
faults()
print(first, faults())
"""


def test_threads():
    configure_cpu(2)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_was_freed_is_used_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 20 < before  # 4 MiB a tensor are 1024 pages


def test_another_c_library(monkeypatch):
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
