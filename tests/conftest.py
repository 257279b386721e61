"""Fixtures that many tests share."""

import json
import os
import shutil
import signal
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from fedloge.data import Arrays, FederatedDataModule
from fedloge.models import SmallCNN

ROOT = Path(__file__).parent.parent

if hasattr(signal, "SIGHUP"):  # ignored under nohup, and then by every process that a test starts
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def disk(monkeypatch):
    """Sets the bytes that seem free on every disk; much, until then, whatever this machine has."""
    usage = namedtuple("usage", "total used free")

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**50, 2**50 - free, free))

    leave(2**40)
    return leave


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own with 400 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An uninterrupted run, and what it left."""
    from tiny_runs import content, run_tiny

    folder = tmp_path_factory.mktemp("whole") / "run"
    run_tiny(folder)
    return folder, content(folder)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    installed = os.environ.get("FEDLOGE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as driver:
        try:
            running = driver.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium (FEDLOGE_CHROMIUM, or `playwright install chromium`): {error.message[:200]}")
        yield running
        running.close()


@pytest.fixture
def reference():
    """Reads a published reference file, or skips the test where these files are absent."""
    folder = Path(os.environ.get("FEDLOGE_REFERENCE", ROOT.parent / "shared" / "reference"))

    def read(name):
        path = folder / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"no {name}.json: the published reference files are absent (FEDLOGE_REFERENCE)")
        return json.loads(path.read_text())

    return read


def tiny_source(num_classes=3, per_class=20, test_per_class=6, size=4, seed=0):
    """Random one-channel images with a brighter corner per class: quick to learn something from."""
    generator = torch.Generator().manual_seed(seed)

    def make(count):
        labels = torch.arange(num_classes).repeat_interleave(count)
        images = torch.randint(0, 128, (len(labels), 1, size, size), generator=generator)
        for c in range(num_classes):
            images[labels == c, 0, c // size, c % size] += 120
        return images.to(torch.uint8), labels

    return Arrays(*make(per_class), *make(test_per_class), name="tiny")


@pytest.fixture
def make_data():
    def make(source=None, **options):
        settings = {"num_clients": 2, "imbalance_factor": 4, "batch_size": 4, "alpha": 1.0} | options
        return FederatedDataModule(source or tiny_source(), **settings)

    return make


@pytest.fixture
def tiny_net():
    return SmallCNN((6,), in_channels=1)
