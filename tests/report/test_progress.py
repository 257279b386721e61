import io
import json

import pytest
from rich.console import Console

from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.methods import FedRep
from fedloge.models import SmallCNN
from fedloge.report.progress import RunProgress, lowered_models, redraws
from fedloge.report.write import WriteReport
from names import AWKWARD
from tiny_runs import run_tiny


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("forced", [False, True])
def test_colour_that_is_asked_for_makes_no_terminal(monkeypatch, forced):
    """Jupyter sets FORCE_COLOR for the commands of a cell, whose output it cannot draw over."""
    monkeypatch.setenv("TERM", "xterm-color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert redraws(Console(file=Terminal()))
    assert not redraws(Console(file=io.StringIO()))


def test_what_is_told_is_what_was_measured(tmp_path):
    """Three clients at 0.7 are two in a round; FedRep has epochs of its own."""
    source = tiny_source()
    source.name = AWKWARD["markup"]
    data = FederatedDataModule(source, num_clients=3, imbalance_factor=4, batch_size=16, alpha=1.0)
    console = Console(file=io.StringIO(), width=300)
    method = FedRep(SmallCNN((6,), in_channels=1), 3, head_epochs=1, body_epochs=1)
    folder = tmp_path / AWKWARD["tags"].replace("/", "-")
    callbacks = [RunProgress(console), WriteReport(console)]
    run_tiny(folder, method=method, data=data, rounds=1, executor="serial", callbacks=callbacks)
    text = console.file.getvalue()
    assert f"FedRep on {source.name}: 3 clients (2 in a round), 35 training images, IF 4 (max/min)" in text
    assert "trainer.local_epochs=1 is not used: FedRep trains 1 + 1 epochs in a round." in text
    assert f"everything is in {folder}\n" in text
    assert f"report: {folder / 'report.html'}\n" in text
    found = json.loads((folder / "environment.json").read_text())
    known = {"device": "cpu", "precision": "32-true", "executor": "Serial", "workers": 1, "clients_per_round": 2}
    assert {name: found[name] for name in known} == known
    assert found["threads"] == 1


@pytest.mark.parametrize(
    ("trained", "realigned", "lowered"),
    [
        ((0.5, 0.8), (0.4, 0.9), ["generic"]),
        ((0.5, 0.8), (0.5, 0.8), []),
        ((0.5, 0.8), (0.4, 0.7), ["generic", "personal"]),
    ],
)
def test_models_that_the_last_stage_makes_worse_are_named(trained, realigned, lowered):
    def models(generic, personal):
        return {"global": {"acc": generic}, "personal": {"acc_mean": personal}}

    assert lowered_models({**models(*realigned), "before_realignment": models(*trained)}) == lowered
    assert lowered_models({**models(*realigned), "before_realignment": None}) == []
