"""`fedloge fit --help`: one screen without torch, and all options in plain text."""

import inspect
import subprocess
import sys

import pytest

from fedloge.cli import main
from fedloge.data import FederatedDataModule
from fedloge.help import COMMON, TOPICS, asked_topic, fit_help, full_help
from fedloge.methods import Method
from fedloge.trainer import FederatedTrainer

OWNERS = {"trainer": FederatedTrainer, "model": Method, "data": FederatedDataModule}


def test_the_short_help_is_one_screen():
    lines = fit_help().splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, default, _ in COMMON if "." in name])
def test_the_options_exist_with_these_defaults(name, default):
    section, option = name.split(".")
    parameter = inspect.signature(OWNERS[section]).parameters[option]
    assert parameter.default == (inspect.Parameter.empty if name in ("model.backbone", "data.source") else default)


def test_the_short_help_does_not_import_torch():
    script = "import sys; from fedloge.cli import main; main(['fit', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, fit_help())


def test_topics():
    assert asked_topic(["--config", "x.yaml"]) is None
    assert asked_topic(["--config", "x.yaml", "--help"]) == "short"
    assert asked_topic(["-h", "--quiet"]) == "short"
    assert [asked_topic(["--help", topic]) for topic in TOPICS] == list(TOPICS)
    assert asked_topic(["--help=trainer"]) == "trainer"


def test_an_unknown_topic_is_refused(capsys):
    assert main(["fit", "--help", "optimiser"]) == 2
    assert "--help='optimiser' is unknown. Choose one of all, trainer, model, data" in capsys.readouterr().err


def test_the_full_help_is_plain_text(capsys):
    assert main(["fit", "--help", "all"]) == 0
    text = capsys.readouterr().out
    for option in ("--trainer.rounds", "--data.alpha", "--model", "--report"):
        assert option in text
    assert not any(part in text for part in (":class:", ":meth:", "``", "Lightning Trainer command line tool"))


def test_a_topic_shows_its_section_alone():
    text = "usage: x\n\noptions:\n  --report  R\n\nTrains :class:`~a.B`:\n  --trainer.x  ``X``\n\nMakes:\n  --data.y\n"
    assert full_help(text, "trainer").strip() == "Trains a.B:\n  --trainer.x  X"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--rounds=3", "there is no option 'rounds'. Did you mean 'trainer.rounds'?"),
        ("--model.backbone=nope.Nope", "model.backbone=nope.Nope cannot be imported: No module named 'nope'."),
        (
            "--model.backbone=torchvision.models.resnet18",
            "model.backbone=torchvision.models.resnet18 is not",
        ),
    ],
)
def test_mistaken_options_are_explained(option, message, capsys):
    assert main(["fit", "--config", "configs/quickstart.yaml", option]) == 2
    assert message in capsys.readouterr().err
