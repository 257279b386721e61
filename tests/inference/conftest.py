"""Runs of two rounds and images, shared by the tests of ``fedloge.inference``."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from fedloge.cli import main
from fedloge.data.sources import Digits

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Makes a run of a method with two rounds, once."""
    folder = tmp_path_factory.mktemp("runs")
    settings = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    settings["trainer"] |= {"rounds": 2, "local_epochs": 1, "accelerator": "cpu"}
    settings["data"] |= {"num_clients": 3, "auxiliary": 4}
    del settings["model"]["init_args"]["beta"], settings["model"]["init_args"]["gamma"]

    def make(method, *options):
        run = folder / method
        if not run.exists():
            settings["model"]["class_path"] = method
            config = folder / f"{method}.yaml"
            config.write_text(yaml.safe_dump(settings))
            assert main(["fit", "--config", str(config), f"--trainer.run_dir={run}", *options]) == 0
        return run

    return make


@pytest.fixture
def run(runs):
    return runs("FedLoGe", "--model.gamma=1.0")


@pytest.fixture(scope="session")
def digits():
    return Digits().load()


@pytest.fixture(scope="session")
def images(tmp_path_factory, digits):
    """Five test images of each of three classes, as files: <class>/<i>.png."""
    root = tmp_path_factory.mktemp("client")
    for c in (1, 4, 7):
        (root / str(c)).mkdir()
        for i, index in enumerate((digits.test_labels == c).nonzero()[:5, 0]):
            Image.fromarray(digits.test.gather(index[None])[0, 0].numpy()).save(root / str(c) / f"{i}.png")
    return root


@pytest.fixture
def fail(capsys):
    """Runs a command that must fail, and returns its one line of error."""

    def run(*args):
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 2
        error = capsys.readouterr().err
        assert error.startswith("fedloge: error: ")
        assert error.count("\n") == 1
        return error

    return run
