"""What a run leaves in its folder: the files, the columns of the tables, and the keys of the JSON and YAML files.

Values are not compared here; only the shape is, which other tools read. The shape before the modules moved is in
``run_folder.json``.
"""

import csv
import json
from pathlib import Path

import pytest
import yaml

from broken import FailsAtTwo
from fedloge.cli import main
from fedloge.models import SmallCNN
from tiny_runs import run_tiny

HERE = Path(__file__).parent
SHAPES = json.loads((HERE / "run_folder.json").read_text(encoding="utf-8"))
QUICKSTART = HERE.parents[1] / "configs" / "quickstart.yaml"
SMALL = ["rounds=2", "local_epochs=1", "evaluate_every=1", "checkpoint_every=1", "accelerator=cpu"]


def fit_fedloge(folder):
    """Run FedLoGe from the quickstart's configuration, with a realignment that has a training part."""
    options = [*(f"--trainer.{option}" for option in SMALL), f"--trainer.run_dir={folder}", "--data.num_clients=3"]
    method = ["--model.backbone.channels=[16]", "--model.finetune_epochs=1"]
    assert main(["fit", "--config", str(QUICKSTART), *options, *method, "--quiet"]) == 0


def fit_fedavg(folder):
    """Run FedAvg with a profile and a logger, and without a report page."""
    settings = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    settings["model"] = {"class_path": "FedAvg", "init_args": {"backbone": settings["model"]["init_args"]["backbone"]}}
    config = folder.parent / "fedavg.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = [*SMALL, f"run_dir={folder}", "profile=true", "logger=csv"]
    options = [*(f"--trainer.{option}" for option in options), "--data.num_clients=3", "--report=false"]
    assert main(["fit", "--config", str(config), *options, "--quiet"]) == 0


def fit_with_a_failing_client(folder):
    """Run from Python, where one client of three fails in every round."""
    run_tiny(folder, method=FailsAtTwo(SmallCNN((6,), in_channels=1), 3), rounds=2, on_client_failure="skip")


RUNS = {"FedLoGe": fit_fedloge, "FedAvg": fit_fedavg, "from Python, a client fails": fit_with_a_failing_client}


def keys(value, depth=-1):
    """The nested keys of a mapping, down to a depth; a list of mappings is represented by its first item."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys(value[0], depth)]
    if not isinstance(value, dict) or depth == 0:
        return None
    return {key: keys(item, depth - 1) for key, item in sorted(value.items())}


def shape(folder):
    """The files of a run folder, without the lock, and what is inside those that other tools read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    found = {"files": [path.relative_to(folder).as_posix() for path in files], "columns": {}, "keys": {}}
    for path, name in zip(files, found["files"], strict=True):
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                found["columns"][name] = next(csv.reader(file))
        elif path.suffix == ".json":
            found["keys"][name] = keys(json.loads(path.read_text(encoding="utf-8")))
        elif name == "config.yaml":
            found["keys"][name] = keys(yaml.safe_load(path.read_text(encoding="utf-8")), depth=2)
    return found


@pytest.mark.filterwarnings("ignore:round . continues without client 2")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_has_the_same_shape(name, tmp_path):
    RUNS[name](tmp_path / "run")
    found, expected = shape(tmp_path / "run"), SHAPES[name]
    assert found["files"] == expected["files"]
    assert found["columns"] == expected["columns"]
    assert found["keys"] == expected["keys"]
