"""What a user can name: the verbs and options of the command line, and the public names of the package.

The golden files beside this test hold what was printed before the modules moved.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedloge
import fedloge.collapse
from fedloge.cli import main

HERE = Path(__file__).parent
HEAVY = {"torch", "lightning", "numpy", "torchmetrics", "jsonargparse", "sklearn", "plotly", "matplotlib", "wandb"}
"""Packages that the general help must not wait for."""

OPTIONS = json.loads((HERE / "options.json").read_text(encoding="utf-8"))
NAMES = json.loads((HERE / "names.json").read_text(encoding="utf-8"))


def options_of(verb, capsys):
    """The names of the options that the help of a verb lists, without those for the help itself."""
    if verb == "fit":  # whose help without a topic is short
        assert main(["fit", "--help", "all"]) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            main([*verb.split(), "--help"])
        assert not stop.value.code
    listed = re.findall(r"^\s{2,4}(?:-\w, )?--([\w.-]+)", capsys.readouterr().out, re.MULTILINE)
    return sorted({name for name in listed if name.split(".")[-1] != "help"})


def test_the_general_help_is_the_same_and_does_not_wait_for_torch():
    command = [sys.executable, "-X", "importtime", "-m", "fedloge", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (HERE / "help.txt").read_text(encoding="utf-8")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "fedloge" in imported
    assert not imported & HEAVY


def test_the_help_of_the_collapse_lab_is_the_same(capsys):
    assert main(["collapse", "--help"]) == 0
    assert capsys.readouterr().out == (HERE / "help_collapse.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_verb_has_the_same_options(verb, capsys):
    assert options_of(verb, capsys) == OPTIONS[verb]


@pytest.mark.parametrize("module", NAMES)
def test_public_names_are_the_same_and_can_be_imported(module):
    package = {"fedloge": fedloge, "fedloge.collapse": fedloge.collapse}[module]
    assert sorted(package.__all__) == NAMES[module]
    for name in NAMES[module]:
        assert getattr(package, name).__name__ == name
