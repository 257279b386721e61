import shutil

import fedloge
from fedloge.inference.export import export_models
from fedloge.inference.models import load_finished


def test_models_that_are_not_there(run, runs, images, tmp_path, fail):
    error = fail("predict", run, images, "--client=3")
    assert "client=3 does not exist: the run has clients 0 to 2." in error
    error = fail("predict", run, images, "--client=x")
    assert "client='x' is neither a client nor the folder of a new client. The run has clients 0 to 2." in error
    error = fail("predict", runs("FedPer"), images)
    assert "FedPer has no generic model. Choose a client's model." in error
    assert "is not a run" in fail("predict", tmp_path, images)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    shutil.rmtree(unfinished / "checkpoints" / "final")
    assert "has no final models: the run is not finished" in fail("predict", unfinished, images)


def test_a_run_without_personal_models(runs, images, tmp_path, fail, monkeypatch):
    run = runs("FedAvg")
    monkeypatch.setattr(fedloge.FedAvg, "views", ("global",))
    message = "FedAvg has no personal models, so none for a new client."
    assert "FedAvg has no personal model. Take the generic one." in fail("predict", run, images, "--client=0")
    assert message in fail("new-client", run, images)
    export_models(load_finished(run), "all", "safetensors", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "body.safetensors",
        "generic.safetensors",
        "model.json",
    ]
