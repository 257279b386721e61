"""The commands of the README's sections on tracking, sweeps, diagnostics and using the models."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import fedloge
from fedloge.cli import main
from fedloge.data.sources import Digits

ROOT = Path(__file__).parents[2]
SHORT = ["--trainer.rounds=1", "--trainer.local_epochs=1", "--trainer.accelerator=cpu"]


def section_text(section):
    """What stands under a heading."""
    return re.search(rf"^## {section}$(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]


def commands(section):
    """The ``fedloge`` lines of a section's code blocks."""
    blocks = re.findall(r"^```\n(.*?)^```", section_text(section), re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for block in blocks for line in block.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the repository's configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tracking(here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (command,) = commands("Tracking")
    assert main([*command, *SHORT]) == 0
    assert (here / "runs" / "quickstart" / "tracking.json").is_file()


def test_sweeps(here):
    (command,) = commands("Sweeps")
    assert main([*command, "--runs=2", *SHORT]) == 0
    assert (here / "runs" / "gamma_beta" / "sweep.png").is_file()


def test_diagnostics(here):
    assert main(["fit", "--config", "configs/quickstart.yaml", *SHORT]) == 0
    fit, analyze = commands("Diagnostics")
    assert main([*fit, *SHORT]) == 0
    assert main(analyze) == 0
    assert (here / "side-by-side" / "degeneration.png").is_file()


@torch.no_grad()
def test_using_the_models(here):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert main(["fit", "--config", "configs/quickstart.yaml", *SHORT]) == 0
    data = Digits().load()
    for folder, count in (("images", 2), ("clinic/3", 4), ("clinic/7", 4)):
        Path(folder).mkdir(parents=True)
        for index in range(count):
            pixels = data.test.images[data.test_labels == int(folder[-1] if folder[-1].isdigit() else 0)][index, 0]
            Image.fromarray(pixels.numpy()).save(f"{folder}/{index}.png")
    lines = commands("Using the models")
    assert [line[0] for line in lines] == ["predict", "predict", "export", "new-client", "predict"]
    for line in lines:
        assert main(line) == 0
    assert len(list((here / "exported").glob("*.onnx"))) == 12
    assert (here / "clinic-model" / "client.json").is_file()
    names = {"images": data.test.images[:3].numpy().astype("float32") / 255}
    exec(section_text("Using the models").split("```python\n")[1].split("```")[0], names)
    expected = fedloge.load_run("runs/quickstart").personal(3)(data.test.images[:3])
    torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, atol=1e-5, rtol=1e-5)
