"""predict, export and new-client on runs of two rounds."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import fedloge
import fedloge.methods
from fedloge.cli import main
from fedloge.data.sources import Digits
from fedloge.inference import export as export_module
from fedloge.inference.export import export_models
from fedloge.inference.models import load_finished
from fedloge.inference.new_client import add_client, plan

ROOT = Path(__file__).parents[2]
METHODS = sorted(set(fedloge.methods.__all__) - {"Client", "Method", "Phase"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes a run of a method, once."""
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


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


@pytest.fixture(scope="module")
def images(tmp_path_factory, digits):
    """Five test images of each of three classes, as files: <class>/<i>.png."""
    root = tmp_path_factory.mktemp("client")
    for c in (1, 4, 7):
        (root / str(c)).mkdir()
        for i, index in enumerate((digits.test_labels == c).nonzero()[:5, 0]):
            Image.fromarray(digits.test.gather(index[None])[0, 0].numpy()).save(root / str(c) / f"{i}.png")
    return root


def pixels(digits, count=8):
    return digits.test.gather(torch.arange(count))


def fail(capsys, *args):
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedloge: error: ")
    assert error.count("\n") == 1
    return error


# predict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [None, 2])
def test_predict_gives_the_models_classes(client, run, images, digits, capsys):
    loaded = fedloge.load_run(run)
    predictor = loaded.generic() if client is None else loaded.personal(client)
    index = (digits.test_labels == 4).nonzero()[:5, 0]
    expected = predictor.predict_step(digits.test.gather(index))
    capsys.readouterr()
    chosen = [] if client is None else ["--client", str(client)]
    assert main(["predict", str(run), *chosen, str(images / "4"), "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == [str(images / "4" / f"{i}.png") for i in range(5)]
    assert [int(row["class"]) for row in rows] == expected.argmax(1).tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.amax(1).tolist(), abs=1e-5)


def test_predict_takes_files_and_folders_in_all_formats(run, images, capsys):
    capsys.readouterr()
    paths = [str(images / "7" / "0.png"), str(images)]
    assert main(["predict", str(run), *paths, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 16
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert rows[0]["probability"] == rows[0]["probabilities"][rows[0]["class"]]
    assert main(["predict", str(run), *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "class", "probability"]
    assert len(lines) == 17


def test_images_that_do_not_fit(run, images, tmp_path, capsys):
    Image.new("L", (8, 9)).save(tmp_path / "size.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "mode.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    size = fail(capsys, "predict", run, tmp_path / "size.png")
    assert "size.png' has 8x9 pixels, but the model takes 8x8. Pass --convert" in size
    assert "mode.png' has mode RGB, but the model takes L (grey)" in fail(capsys, "predict", run, tmp_path / "mode.png")
    assert "is not an image that Pillow can read" in fail(capsys, "predict", run, tmp_path / "broken.png")
    assert "empty' holds no image" in fail(capsys, "predict", run, tmp_path / "empty")
    assert "no file or folder" in fail(capsys, "predict", run, tmp_path / "absent.png")
    converted = [str(tmp_path / "size.png"), str(tmp_path / "mode.png"), "--convert", "--format=csv"]
    assert main(["predict", str(run), *converted]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_run_on_an_image_folder_makes_images_fit_as_in_training(tmp_path, capsys):
    for part, count in (("train", 6), ("test", 2)):
        for c in range(3):
            (tmp_path / "data" / part / f"class{c}").mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "data" / part / f"class{c}" / f"{i}.png"
                Image.new("RGB", (16, 16), (80 * c, 40 * i, 9)).save(path)
    source = {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "data"), "image_size": 16}}
    settings = {
        "trainer": {"rounds": 1, "local_epochs": 1, "accelerator": "cpu", "run_dir": str(tmp_path / "run")},
        "model": {"class_path": "FedAvg", "init_args": {"backbone": "SmallCNN"}},
        "data": {"source": source, "num_clients": 2, "imbalance_factor": 2},
    }
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(tmp_path / "folder.yaml")]) == 0
    Image.new("L", (40, 30)).save(tmp_path / "other.png")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "other.png"), "--format=csv"]) == 0
    assert "class" in capsys.readouterr().out.splitlines()[1]


def test_models_that_are_not_there(run, runs, images, tmp_path, capsys):
    error = fail(capsys, "predict", run, images, "--client=3")
    assert "client=3 does not exist: the run has clients 0 to 2." in error
    error = fail(capsys, "predict", run, images, "--client=x")
    assert "client='x' is neither a number nor the folder of a new client. The run has clients 0 to 2." in error
    error = fail(capsys, "predict", runs("FedPer"), images)
    assert "FedPer has no generic model. Choose a client's model." in error
    assert "is not a run" in fail(capsys, "predict", tmp_path, images)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    shutil.rmtree(unfinished / "checkpoints" / "final")
    assert "has no final models: the run is not finished" in fail(capsys, "predict", unfinished, images)


def test_a_run_without_personal_models(runs, images, tmp_path, capsys, monkeypatch):
    run = runs("FedAvg")
    monkeypatch.setattr(fedloge.FedAvg, "views", ("global",))
    message = "FedAvg has no personal models, so none for a new client."
    assert "FedAvg has no personal model. Take the generic one." in fail(capsys, "predict", run, images, "--client=0")
    assert message in fail(capsys, "new-client", run, images)
    export_models(load_finished(run), "all", "safetensors", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "body.safetensors",
        "generic.safetensors",
        "model.json",
    ]


# export --------------------------------------------------------------------------------------------------------


def apply_export(folder, name, images, run):
    """Logits of a model from its files, as the user of the files would compute them."""
    about = json.loads((folder / "model.json").read_text())
    body, head = (folder / about["models"][name][part] for part in ("body", "head"))
    scaled = images.float() / 255
    if about["format"] == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        features = onnxruntime.InferenceSession(body).run(None, {"images": scaled.numpy()})[0]
        return torch.from_numpy(onnxruntime.InferenceSession(head).run(None, {"features": features})[0])
    if about["format"] == "torchscript":
        return torch.jit.load(head)(torch.jit.load(body)(scaled))
    mean, std = (torch.tensor(about["image"][key]).view(-1, 1, 1) for key in ("mean", "std"))
    method = fedloge.load_run(run).method.eval()
    entries = {**load_file(body), **load_file(head)}
    assert entries.keys() <= method.state_dict().keys()
    if isinstance(method, fedloge.FedLoGe):
        method.realigned.fill_(True)
    method.load_state_dict(entries, strict=False)
    view = "global" if name == "generic" else "personal"
    return method.logits(method.features((scaled - mean) / std, view), view)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("format", ["safetensors", "onnx", "torchscript"])
@pytest.mark.parametrize("method", ["FedLoGe", "FedBN", "FedETF"])
def test_exports_have_the_outputs_of_the_module(method, format, runs, digits, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    run = runs(method, *(["--model.gamma=1.0"] if method == "FedLoGe" else []))
    loaded = load_finished(run)
    export_models(loaded, "all", format, tmp_path / "out")
    for count in (1, 8):
        batch = pixels(digits, count)
        for name in ("generic", "client-0", "client-2"):
            predictor = loaded.generic() if name == "generic" else loaded.personal(int(name[-1]))
            expected = predictor(batch)
            torch.testing.assert_close(apply_export(tmp_path / "out", name, batch, run), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_exported_and_gets_a_new_client(method, runs, digits, images, tmp_path):
    run = runs(method, *(["--model.gamma=1.0"] if method == "FedLoGe" else []))
    loaded = load_finished(run)
    export_models(loaded, 1, "torchscript", tmp_path / "one")
    expected = loaded.personal(1)(pixels(digits))
    torch.testing.assert_close(
        apply_export(tmp_path / "one", "client-1", pixels(digits), run), expected, atol=1e-5, rtol=1e-5
    )
    if method == "FedETF":  # nothing there that a client could train, unless it fine-tunes
        with pytest.raises(fedloge.errors.RunError, match="no head that a new client could train"):
            add_client(loaded, images, tmp_path / "new")
        return
    folder, about = add_client(loaded, images, tmp_path / "new", epochs=2)
    assert about["class_counts"] == {"1": 5, "4": 5, "7": 5}
    export_models(loaded, str(folder), "safetensors", tmp_path / "exported")
    assert (tmp_path / "exported" / "new.safetensors").is_file()


def test_the_body_is_written_once_and_heads_are_small(run, tmp_path):
    assert main(["export", str(run), "--client=all", f"--output={tmp_path / 'out'}"]) == 0
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")}
    assert sizes.keys() == {f"{name}.safetensors" for name in ("body", "generic", "client-0", "client-1", "client-2")}
    head = 4 * (64 * 10 + 10)
    assert all(head <= size < head + 500 for name, size in sizes.items() if name != "body.safetensors")
    assert load_file(tmp_path / "out" / "client-0.safetensors").keys() == {"phi.weight", "phi.bias"}
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["models"]["client-1"] == {"body": "body.safetensors", "head": "client-1.safetensors"}


def test_bodies_of_their_own_are_exported(runs, tmp_path, capsys):
    assert main(["export", str(runs("FedBN")), "--client=all", f"--output={tmp_path / 'out'}"]) == 0
    names = {path.name for path in (tmp_path / "out").glob("*-body.safetensors")}
    assert names == {f"{name}-body.safetensors" for name in ("generic", "client-0", "client-1", "client-2")}
    assert not (tmp_path / "out" / "body.safetensors").exists()
    assert "client-2-body.safetensors" in capsys.readouterr().out


def test_what_cannot_be_exported(run, tmp_path, capsys, monkeypatch):
    assert "client=9 does not exist" in fail(capsys, "export", run, "--client=9", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    error = fail(capsys, "export", run, f"--output={tmp_path / 'full'}")
    assert "full' is not empty. Choose another --output." in error
    error = fail(capsys, "export", run, f"--output={tmp_path / 'full' / 'mine.txt'}")
    assert "cannot be made" in error
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    error = fail(capsys, "export", run, "--format=onnx", f"--output={tmp_path / 'out'}")
    assert "--format=onnx needs onnx and onnxscript. Run `pip install onnx onnxscript`." in error
    assert not (tmp_path / "out").exists()


# new-client ----------------------------------------------------------------------------------------------------


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


def test_bad_clients(run, runs, images, tmp_path, capsys):
    assert "holds no image" not in fail(capsys, "new-client", run, tmp_path / "absent")
    assert "has no class folder. Sort the client's images into DATA/<class>/*." in fail(
        capsys, "new-client", run, tmp_path
    )
    (tmp_path / "data" / "zebra").mkdir(parents=True)
    error = fail(capsys, "new-client", run, tmp_path / "data")
    assert "zebra' is named after no class of the run. Its classes are 0, 1, 2" in error
    (tmp_path / "data" / "zebra").rename(tmp_path / "data" / "3")
    assert "3' holds no image" in fail(capsys, "new-client", run, tmp_path / "data")
    Image.new("L", (9, 9)).save(tmp_path / "data" / "3" / "large.png")
    assert "has 9x9 pixels" in fail(capsys, "new-client", run, tmp_path / "data")
    assert "epochs=-1 must be at least 1" in fail(capsys, "new-client", run, images, "--epochs=-1")
    folder, _ = add_client(load_finished(run), images, tmp_path / "new", epochs=1)
    error = fail(capsys, "new-client", run, images, f"--output={folder}")
    assert "is not empty. Choose another --output." in error
    error = fail(capsys, "predict", runs("FedAvg"), images, f"--client={folder}")
    assert "was made for another run" in error
    (folder / "client.safetensors").write_bytes(b"")
    assert "cannot be read" in fail(capsys, "predict", run, images, f"--client={folder}")
