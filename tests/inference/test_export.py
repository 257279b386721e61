import json

import pytest
import torch
from safetensors.torch import load_file

import fedloge
import fedloge.methods
from fedloge.cli import main
from fedloge.inference import export as export_module
from fedloge.inference.export import export_models
from fedloge.inference.models import load_finished
from fedloge.inference.new_client import add_client

METHODS = sorted(set(fedloge.methods.__all__) - {"Client", "Method", "Phase"})


def pixels(digits, count=8):
    return digits.test.gather(torch.arange(count))


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


def test_an_export_that_was_stopped_goes_on(run, tmp_path, monkeypatch, fail):
    loaded, written, save = load_finished(run), [], export_module._save_entries

    def stopping(part, example, path, *names):
        if len(written) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        save(part, example, path, *names)

    with monkeypatch.context() as patch:
        patch.setattr(export_module, "_save_entries", stopping)
        with pytest.raises(KeyboardInterrupt):
            export_models(loaded, "all", "safetensors", tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(kept) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in kept} | {"unfinished.json"}
    assert "is not empty" in fail("export", run, "--client=all", "--format=torchscript", "--output", tmp_path / "out")
    export_models(loaded, "all", "safetensors", tmp_path / "out")
    export_models(loaded, "all", "safetensors", tmp_path / "whole")
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in tmp_path.iterdir()]
    assert files[0] == files[1]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


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


def test_what_cannot_be_exported(run, tmp_path, fail, monkeypatch):
    assert "client=9 does not exist" in fail("export", run, "--client=9", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    error = fail("export", run, f"--output={tmp_path / 'full'}")
    assert "full' is not empty. Choose another --output." in error
    error = fail("export", run, f"--output={tmp_path / 'full' / 'mine.txt'}")
    assert "cannot be made" in error
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    error = fail("export", run, "--format=onnx", f"--output={tmp_path / 'out'}")
    assert "--format=onnx needs onnx and onnxscript. Run `pip install onnx onnxscript`." in error
    assert not (tmp_path / "out").exists()
