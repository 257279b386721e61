"""The configs of ImageNet-LT and iNaturalist through the command line, over small trees in their layouts."""

import json
from pathlib import Path

import pytest
import yaml

from fedloge.cli import main
from image_trees import imagenet_lt, inaturalist

CONFIGS = Path(__file__).parent.parent.parent / "configs"
TREES = {"imagenet_lt": imagenet_lt, "inaturalist": inaturalist}
FILES = sorted(str(path.relative_to(CONFIGS)) for name in TREES for path in (CONFIGS / name).glob("*.yaml"))


@pytest.fixture(scope="module", params=FILES)
def config(request, tmp_path_factory):
    """A config with its tree for a root, images of 8x8 and a small net."""
    folder = tmp_path_factory.mktemp("tree")
    settings = yaml.safe_load((CONFIGS / request.param).read_text())
    source = settings["data"]["source"]["init_args"]
    source |= {"root": str(TREES[Path(request.param).parent.name](folder / "tree")), "cache": str(folder / "cache")}
    source |= {"num_classes": 5, "image_size": 8}
    settings["model"]["init_args"]["backbone"] = {"class_path": "SmallCNN", "init_args": {"channels": [8]}}
    settings["data"] |= {"num_clients": 3, "batch_size": 8}
    settings["trainer"] |= {"rounds": 1, "local_epochs": 1}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def fit(config, folder, *options):
    assert main(["fit", "--config", config, "--report=false", f"--trainer.run_dir={folder}", *options]) == 0
    return json.loads((folder / "summary.json").read_text())


def is_imagenet(config):
    return "ImageNetLT" in Path(config).read_text()


def test_fit(config, tmp_path):
    summary = fit(config, tmp_path / "run")
    assert summary["rounds"] == 1
    assert summary["dataset"] == ("ImageNet-LT" if is_imagenet(config) else "iNaturalist-User-120k")
    partition = json.loads((tmp_path / "run" / "partition.json").read_text())
    assert partition["IF"] == 8.0
    assert sum(len(client["train"]) for client in partition["clients"]) == 48
    again = fit(config, tmp_path / "again", "--data.source.init_args.in_memory=never", "--trainer.threads=1")
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    for executor in ("cuda", "processes"):
        graphs = ["--trainer.executor.graphs=false"] if executor == "cuda" else []
        other = fit(config, tmp_path / executor, f"--trainer.executor={executor}", *graphs)
        assert {**other, "seconds": 0} == {**summary, "seconds": 0}


def test_partition(config, capsys):
    assert main(["partition", "--config", config]) == 0
    shown = capsys.readouterr().out
    assert "IF 8 (max/min)" in shown
    assert "classes: 24 to 3 images; 2 many, 3 medium, 0 few (by mass)" in shown


def test_partition_by_user(config, capsys):
    code = main(["partition", "--config", config, "--data.scheme=natural", "--data.num_clients=7"])
    told = capsys.readouterr()
    if is_imagenet(config):
        assert (code, told.out) == (2, "")
        assert "data.scheme='natural' needs the user of each image" in told.err
    else:
        assert "scheme: natural, seed 3407, IF 8 (max/min)" in told.out
        assert "training images of a client: 6 to 7 (median 7)" in told.out


@pytest.mark.parametrize("name", TREES)
def test_nothing_there_says_what_to_download(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(CONFIGS / name / "fedloge.yaml")]) == 2
    told = capsys.readouterr().err
    assert f"no image folder {str(tmp_path / 'data')!r}"[:-1] in told
    assert "data.source.lists" in told
    assert "Traceback" not in told
