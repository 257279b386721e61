"""Configurations that were saved before the modules moved: they still build the same objects.

``old_runs`` holds the ``config.yaml`` and ``partition.json`` of finished runs, as ``fedloge fit`` wrote them at version
0.1.0. A class path that a user wrote in full is saved as it was written; a short name is saved as the shortest path
that leads to the class. ``class_paths.json`` therefore lists both kinds: ``written`` are the paths that short names
become, and ``accepted`` are the longer paths to the same classes, through packages and defining modules.
"""

import importlib
import json
from pathlib import Path

import pytest
import yaml
from lightning import Callback
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger
from PIL import Image

import fedloge
from fedloge.collapse import CollapseCallback
from fedloge.config import build
from fedloge.data import Digits, ImageFolder, Source
from fedloge.executors import Cohort, Executor, Processes
from fedloge.models import Backbone, SmallCNN
from fedloge.runs.locate import run_config

HERE = Path(__file__).parent
RUNS = HERE / "old_runs"
CLASS_PATHS = json.loads((HERE / "class_paths.json").read_text(encoding="utf-8"))
KINDS = {
    "method": fedloge.Method,
    "backbone": Backbone,
    "source": Source,
    "executor": Executor,
    "callback": Callback,
    "logger": Logger,
}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The folder of images that one of the runs was trained on, found from the current directory."""
    for part in ("train", "test"):
        for c in range(3):
            (tmp_path / "images" / part / f"class{c}").mkdir(parents=True)
            Image.new("RGB", (8, 8), (80 * c, 0, 9)).save(tmp_path / "images" / part / f"class{c}" / "0.png")
    monkeypatch.chdir(tmp_path)


def load(name):
    """Build the objects of an old run from its configuration alone."""
    return build(["--config", str(RUNS / name / "config.yaml")])


def contained(old, new):
    """Whether all of an old configuration stands in a new one, which may have further options."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contained(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(contained, old, new))
    return old == new


def callbacks(cli, kind):
    return [callback for callback in cli.trainer.callbacks if type(callback) is kind]


def test_fedloge_with_the_options_of_the_quickstart():
    cli = load("quickstart")
    assert type(cli.model) is fedloge.FedLoGe
    assert type(cli.model.backbone) is SmallCNN
    assert type(cli.datamodule.source) is Digits
    assert cli.trainer.asked_executor == "auto"
    assert (cli.trainer.rounds, cli.trainer.evaluate_every, cli.trainer.seed) == (1, 2, 3407)
    assert (cli.model.gamma, cli.model.lr, cli.model.num_classes) == (1.0, 0.03, 10)
    assert cli.model.backbone.out_features == 64
    assert (cli.datamodule.num_clients, cli.datamodule.imbalance_factor) == (4, 20.0)


def test_fedetf_whose_objects_were_named_in_full(images):
    cli = load("fedetf_nested")
    assert type(cli.model) is fedloge.FedETF
    assert type(cli.model.backbone) is SmallCNN
    assert type(cli.trainer.asked_executor) is Processes
    assert type(cli.datamodule.source) is ImageFolder
    assert [type(logger) for logger in cli.trainer.loggers] == [CSVLogger]
    assert len(callbacks(cli, Timer)) == 1
    (collapse,) = callbacks(cli, CollapseCallback)
    assert (collapse.classifier, collapse.every_n_epochs) == ("etf", 2)
    assert (cli.trainer.seed, cli.trainer.mask_absent, cli.trainer.asked_executor.workers) == (11, "train", 2)
    assert (cli.model.pm, cli.model.finetune_epochs, cli.model.lr, cli.model.num_classes) == ("finetune", 1, 0.02, 3)
    assert (cli.model.backbone.in_channels, cli.model.backbone.out_features) == (3, 8)
    assert (cli.datamodule.scheme, cli.datamodule.augment, cli.datamodule.auxiliary) == ("iid", "crop_flip", 1)
    assert (cli.datamodule.source.image_size, tuple(cli.datamodule.source.std)) == (8, (0.25, 0.25, 0.25))
    assert cli.datamodule.imbalance_factor == 2.0


def test_ditto_whose_objects_were_named_by_their_defining_modules():
    cli = load("ditto_cohort")
    assert type(cli.model) is fedloge.Ditto
    assert type(cli.trainer.asked_executor) is Cohort
    assert len(callbacks(cli, CollapseCallback)) == 1
    assert (cli.trainer.asked_executor.asked_lanes, cli.trainer.asked_executor.graphs) == (2, False)
    assert (cli.model.lam, cli.model.agg) == (0.1, "uniform")
    assert (cli.datamodule.scheme, cli.datamodule.profile) == ("dirichlet_paper", "step")


@pytest.mark.parametrize("name", sorted(path.name for path in RUNS.iterdir()))
def test_an_old_configuration_is_saved_again_as_it_was(name, images):
    old = yaml.safe_load((RUNS / name / "config.yaml").read_text(encoding="utf-8"))
    assert contained(old, yaml.safe_load(load(name).resolved()))


@pytest.mark.parametrize("name", ["quickstart", "ditto_cohort"])
def test_an_old_run_has_its_old_partition(name, tmp_path):
    for file in ("config.yaml", "partition.json"):
        (tmp_path / file).write_bytes((RUNS / name / file).read_bytes())
    (tmp_path / "environment.json").write_text("{}")
    data = build(run_config(tmp_path)).datamodule
    data.setup("test")
    assert data.partition.sha256 == json.loads((tmp_path / "partition.json").read_text(encoding="utf-8"))["sha256"]


@pytest.mark.parametrize("use", ["written", "accepted"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_class_path_leads_to_its_class(kind, use):
    for path in CLASS_PATHS[use][kind]:
        module, _, name = path.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert found.__name__ == name, path
        assert issubclass(found, KINDS[kind]), path


@pytest.mark.parametrize("kind", KINDS)
def test_all_paths_to_a_class_lead_to_the_same_class(kind):
    classes = {}
    for path in CLASS_PATHS["written"][kind] + CLASS_PATHS["accepted"][kind]:
        module, _, name = path.rpartition(".")
        classes.setdefault(name, set()).add(getattr(importlib.import_module(module), name))
    assert all(len(found) == 1 for found in classes.values()), classes
