import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fedloge
from fedloge.cli import main
from fedloge.inference.models import load_finished
from fedloge.inference.new_client import add_client, plan


def test_a_new_client_gets_psi_with_the_norms_of_its_own_phi(run, images, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    command = ["new-client", str(run), str(images), f"--output={tmp_path / 'new'}", "--epochs=30"]
    assert main(command) == 0
    assert "15 images of 3 classes; trained: phi" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    own = load_file(tmp_path / "new" / "client.safetensors")
    psi = load_file(run / "checkpoints" / "last" / "shared.safetensors")
    assert own.keys() == {"phi.weight", "phi.bias"}
    torch.testing.assert_close(own["phi.bias"], psi["psi.bias"])
    norms = own["phi.weight"].norm(dim=1) / psi["psi.weight"].norm(dim=1)
    torch.testing.assert_close(own["phi.weight"], psi["psi.weight"] * norms[:, None])
    present, absent = norms[[1, 4, 7]], norms[[0, 2, 3, 5, 6, 8, 9]]
    assert present.mean() > absent.mean()  # φ learnt the classes that the client has
    assert main(["predict", str(run), f"--client={tmp_path / 'new'}", str(images), "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    accuracy = sum(row["class"] == Path(row["image"]).parent.name for row in rows) / len(rows)
    about = json.loads((tmp_path / "new" / "client.json").read_text())
    assert about["accuracy"]["personal"] == pytest.approx(accuracy)


def test_a_new_client_is_the_same_every_time(run, images, tmp_path):
    states = []
    for name in ("a", "b"):
        folder, _ = add_client(load_finished(run), images, tmp_path / name, epochs=3)
        states.append((folder / "client.safetensors").read_bytes())
    assert states[0] == states[1]


def test_where_a_new_client_goes_by_default(runs, images, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(runs("FedPer"), copied)
    assert main(["new-client", str(copied), str(images), "--epochs=1"]) == 0
    assert (copied / "new_clients" / images.name / "client.json").is_file()


def test_what_each_kind_of_method_trains_for_a_new_client(runs):
    def trained(method, *options, finetunes=False):
        loaded = fedloge.load_run(runs(method), [f"--{option}" for option in options])
        return [(one.name, one.epochs, one.trainable) for one in plan(loaded.method, 5, 9, finetunes)]

    assert trained("FedLoGe") == [("train", 9, ("phi",))]
    assert trained("FedRep") == [("head", 9, ("head",))]
    assert [phase[:2] for phase in trained("Ditto")] == [("personal", 9)]
    assert trained("FedAvg") == [("train", 9, ("head",))]
    assert trained("FedAvg", "model.pm=local") == [("train", 5, None)]
    assert trained("FedAvgFT", finetunes=True) == []


def test_bad_clients(run, runs, images, tmp_path, fail):
    assert "holds no image" not in fail("new-client", run, tmp_path / "absent")
    assert "has no class folder. Sort the client's images into DATA/<class>/*." in fail("new-client", run, tmp_path)
    (tmp_path / "data" / "zebra").mkdir(parents=True)
    error = fail("new-client", run, tmp_path / "data")
    assert "zebra' is named after no class of the run. Its classes are 0, 1, 2" in error
    (tmp_path / "data" / "zebra").rename(tmp_path / "data" / "3")
    assert "3' holds no image" in fail("new-client", run, tmp_path / "data")
    Image.new("L", (9, 9)).save(tmp_path / "data" / "3" / "large.png")
    assert "has 9x9 pixels" in fail("new-client", run, tmp_path / "data")
    assert "epochs=-1 must be at least 1" in fail("new-client", run, images, "--epochs=-1")
    folder, _ = add_client(load_finished(run), images, tmp_path / "new", epochs=1)
    error = fail("new-client", run, images, f"--output={folder}")
    assert "is not empty. Choose another --output." in error
    error = fail("predict", runs("FedAvg"), images, f"--client={folder}")
    assert "was made for another run" in error
    (folder / "client.safetensors").write_bytes(b"")
    assert "cannot be read" in fail("predict", run, images, f"--client={folder}")
