import pytest
import torch

import fedloge
from fedloge.errors import RunError
from tiny_runs import run_tiny


def test_a_run_trained_from_python(tmp_path):
    trainer = run_tiny(tmp_path / "run")
    run = fedloge.Run(tmp_path / "run", trainer, trainer.method, trainer.data)
    images = run.data.dataset.test.gather(torch.arange(18))
    correct = run.generic().predict_step(images).argmax(1) == run.data.test_labels
    assert float(correct.double().mean()) == pytest.approx(run.summary["global"]["acc"])
    own = run.data.client_test_indices(1)
    correct = run.personal(1).predict_step(images[own]).argmax(1) == run.data.test_labels[own]
    rows = [row for row in run.folder.rows("per_client.csv") if (row["client"], row["view"]) == ("1", "personal")]
    assert float(correct.double().mean()) == pytest.approx(float(rows[-1]["accuracy"]), abs=1e-6)


def test_what_cannot_be_opened(tmp_path):
    trainer = run_tiny(tmp_path / "run")
    with pytest.raises(RunError, match=r"no config\.yaml.*fedloge\.Run\(path, trainer, method, data\)"):
        fedloge.load_run(tmp_path / "run")
    with pytest.raises(RunError, match="is not a run"):
        fedloge.Run(tmp_path, trainer, trainer.method, trainer.data)
