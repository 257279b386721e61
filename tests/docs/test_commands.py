"""Every command and every Python block of the documentation is run, page by page, in a prepared folder.

The placeholders of the pages exist in this folder: FILE is a configuration, RUN and RUN2 are finished runs, FOLDER is a
folder of images. :data:`SHORT` reduces the work of each verb. :data:`NOT_RUN` lists the commands that are not run, with
the reason and a check that replaces the run; any other command that is not fedloge's fails.
"""

import importlib.util
import json
import re
import shutil
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from PIL import Image
from safetensors.torch import load_file

import fedloge
from documented import LANGUAGES, PAGES, ROOT, Block, blocks, commands, inline_commands
from fedloge.cli import USAGE, main
from fedloge.data.sources import Digits

RUN = ["--trainer.rounds=1", "--trainer.local_epochs=1", "--trainer.accelerator=cpu"]
RUN += ["--data.num_clients=4", "--data.batch_size=64"]
FIT = [*RUN, "--trainer.overwrite=true", "--report=false"]

SHORT = {
    "fit": FIT,
    "fit --config mine.yaml": [
        "--trainer.accelerator=cpu",
        "--report=false",
    ],  # it is short already, and must train to a good accuracy
    "partition": ["--data.num_clients=4"],
    "resume": ["--trainer.rounds=2", "--report=false"],
    "compare": ["--seeds=[0]", "--methods={FedAvg: {}}", *RUN],
    "study": ["--seeds=[0]", *RUN],
    "sweep": ["--runs=1", *RUN],
    "new-client": ["--epochs=2"],
    "collapse deep-linear": ["--steps=4", "--points=2"],
    "collapse language": ["--widths=[8]", "--steps=[0,1,2]", "--vocabulary=20"],
}
"""Options appended to those of the page, by the beginning of a command (the longest match counts)."""


# Commands that are not run ---------------------------------------------------------------------------------


def check_requirements(words):
    """Extras are those of pyproject.toml, files exist, and everything else is a requirement."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for flag, word in pairwise(words[1:]):
        if flag == "-c":
            assert (ROOT / word).is_file()
        elif not word.startswith("-"):
            requirement = Requirement(re.sub(r"^\.", "fedloge", word))
            assert requirement.name != "fedloge" or requirement.extras <= extras.keys(), word


def check_ci(words):
    """CI runs the same command."""
    assert " ".join(words) in (ROOT / ".ci" / "run").read_text().splitlines()


def check_hooks(words):
    """The hooks to install exist."""
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def check_module(words):
    """The module and the named files exist."""
    assert importlib.util.find_spec(words[words.index("-m") + 1])
    assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))


def check_benchmark(words):
    """The arguments are accepted, and the workloads have the requested contenders."""
    from benchmarks import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure", lambda workload, pythons, options: True)
        patch.setattr("benchmarks.machine.gpu", lambda: "a GPU")
        assert run.main([*words[3:], "--results", "results"]) == 0


def check_tables(words):
    """The tables agree with the results."""
    from benchmarks import table

    assert table.main([*words[3:], "--check"]) == 0


def check_fidelity(words):
    """The arguments are accepted."""
    from benchmarks import fidelity

    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "check", lambda options: asked.append(options) or 0)
        patch.setattr(fidelity, "run", lambda options, more: asked.append(options))
        assert fidelity.main(words[3:]) == 0
    assert asked[0].reference == "FOLDER"


def check_first_gpu(words):
    """The arguments are accepted."""
    from benchmarks.first_gpu import __main__ as command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run", lambda options: {"stages": []})
        assert command.main(words[3:]) == 0


def check_study(words):
    """The study has entries at that scale."""
    from fedloge.experiments.study import load_study

    file, scale, *overrides = words[2:]
    assert load_study(file, scale.removeprefix("--scale="), overrides).rows


def check_huggingface(words):
    """The options are accepted."""
    from fedloge.collapse.lab.command import parse
    from fedloge.collapse.lab.huggingface import HuggingFace

    parse(HuggingFace, words[3:], " ".join(words[:3]))


def check_site(words):
    """The configuration of the site exists."""
    assert (ROOT / "mkdocs.yml").is_file()


def check_doctor(words):
    """The options exist."""
    with pytest.raises(SystemExit, match="0"):
        main([*words[1:], "--help"])


NOT_RUN = {
    "pip install": ("would install", check_requirements),
    "sweeps-env/bin/pip install": ("would install", check_requirements),
    "sweeps-env/bin/python -m pytest": ("needs that environment; skips elsewhere", check_module),
    "python -m venv": ("would make an environment", check_module),
    "pre-commit install": ("would change the checkout", check_hooks),
    "pytest": ("is this very suite", check_ci),
    "ruff": ("is a step of CI", check_ci),
    "mypy": ("is a step of CI", check_ci),
    "mkdocs": ("is done by tests/docs/test_site.py; serving never ends", check_site),
    "python -m benchmarks.run": ("takes hours; tests/benchmarks runs small ones", check_benchmark),
    "python -m benchmarks.first_gpu": ("needs a GPU; tests/benchmarks runs the quick profile", check_first_gpu),
    "python -m benchmarks.clients": ("takes a minute and would write a result", check_module),
    "python -m benchmarks.table": ("would write the page", check_tables),
    "python -m benchmarks.reproduction": ("would write the pages; tests/benchmarks writes others", check_module),
    "python -m benchmarks.fidelity": ("needs the published numbers; tests/benchmarks runs a mini one", check_fidelity),
    "fedloge study .* --scale=\\w+": ("takes minutes to days; tests/experiments runs tiny ones", check_study),
    "fedloge doctor --gpu": ("needs a GPU; tests/executors/cuda imitates one", check_doctor),
    "fedloge collapse huggingface": ("needs a model; tests/collapse makes one", check_huggingface),
}
"""By the beginning of a command (a regular expression): why it is not run, and the check that replaces the run."""


# Running ---------------------------------------------------------------------------------------------------


def execute(words):
    """Run a command in this process, or check it."""
    line = " ".join(words)
    for start, (_, check) in NOT_RUN.items():
        if re.match(rf"{start}( |$)", line):
            return check(words)
    if words[0] != "fedloge":
        pytest.fail(f"{line!r} is not run: add it to NOT_RUN with the reason")
    known = [start for start in SHORT if f"{line} ".startswith(f"fedloge {start} ")]
    arguments = words[1:] + (SHORT[max(known, key=len)] if known else [])
    if "--resume" in words:
        arguments.remove("--trainer.overwrite=true")
    try:
        code = main(arguments)
    except SystemExit as stopped:  # --help and --print_config
        code = stopped.code
    assert not code, f"{line}: exit code {code}"


def run_block(block: Block, names):
    """Run a block, or save it where its first line names a file."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif LANGUAGES[block.language] == "shell":
        for words in commands(block.text):
            print(*words)
            execute(words)
    elif block.language == "python":
        exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder with everything that the placeholders and the names in the examples stand for."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "configs" / "quickstart.yaml", folder / "FILE")
    digits = Digits().load()
    for name, size, classes, count in (
        ("images", 8, [""], 2),
        ("clinic", 8, "37", 4),
        ("FOLDER/train", 32, "0123456789", 60),
        ("FOLDER/test", 32, "0123456789", 5),
    ):
        for c in classes:
            (folder / name / c).mkdir(parents=True)
            own = digits.test.gather((digits.test_labels == int(c or 0)).nonzero()[:, 0])
            for index in range(count):
                image = Image.fromarray(own[index % len(own), 0].numpy()).resize((size, size))
                (image.convert("RGB") if size == 32 else image).save(folder / name / c / f"{index}.png")
    (folder / "FOLDER" / "config.json").write_text("{}")
    run = folder / "runs" / "quickstart"
    assert main(["fit", "--config", str(folder / "FILE"), *FIT, f"--trainer.run_dir={run}"]) == 0
    for name in ("RUN", "RUN2"):
        shutil.copytree(run, folder / name)
    return folder


@pytest.fixture
def names(prepared, tmp_path, monkeypatch):
    """Change into a copy of the prepared folder; the names that Python blocks find there."""
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return {"images": Digits().load().test.gather(torch.arange(3)) / 255}


# Further claims of the pages -------------------------------------------------------------------------------


def exported_models_are_the_runs(names):
    """onnxruntime computes the module's logits from the exported files."""
    with torch.no_grad():
        expected = fedloge.load_run("runs/quickstart").personal(3)(names["images"])
    torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, atol=1e-5, rtol=1e-5)


def a_method_of_ones_own_is_what_it_says(names):
    """The example's head stays with its client, there is no generic model, and the accuracy is good."""
    summary = json.loads(Path("runs/mine/summary.json").read_text())
    assert summary["global"] is None
    assert summary["personal"]["acc_mean"] > 0.8
    assert "head.weight" not in load_file("runs/mine/checkpoints/last/shared.safetensors")


def a_run_can_be_measured(names):
    """The last block of the page measured the quickstart's generic model."""
    assert names["values"]["classes"] == 10


CLAIMS = {
    "docs/guides/models.md": exported_models_are_the_runs,
    "docs/guides/extending.md": a_method_of_ones_own_is_what_it_says,
    "docs/neural_collapse.md": a_run_can_be_measured,
}

RUNNABLE = [path for path in PAGES if any(LANGUAGES.get(b.language) in ("shell", "python") for b in blocks(path))]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_page_says_runs(path, names):
    for block in blocks(path):
        print(f"{block.page}:{block.line}")
        run_block(block, names)
    CLAIMS.get(str(path.relative_to(ROOT)), lambda names: None)(names)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_fence_says_what_it_is(path):
    assert {block.language for block in blocks(path)} <= LANGUAGES.keys()


def test_commands_in_sentences_exist():
    """Only the verb, the module or the requirement is checked, because most of these commands are incomplete."""
    verbs = set(re.findall(r"^  (\S+)", USAGE, re.MULTILINE)) | {"--help", "VERB"}
    for path in PAGES:
        for words in inline_commands(path):
            match words:
                case ["fedloge", verb, *_]:
                    assert verb in verbs, words
                case ["pip", "install", *_]:
                    check_requirements(words)
                case _:
                    check_module(words)


def test_a_command_that_is_neither_run_nor_listed_fails():
    with pytest.raises(pytest.fail.Exception, match="'make coffee' is not run"):
        execute(["make", "coffee"])
    with pytest.raises(AssertionError, match="exit code 2"):
        execute(["fedloge", "coffee"])


def test_commands_are_read_as_a_shell_reads_them():
    text = "fedloge fit --config FILE [--a=1 ...] --b=[1,2]  # why\npip install '.[dev]' && \\\n  pytest\n"
    assert commands(text) == [
        ["fedloge", "fit", "--config", "FILE", "--a=1", "--b=[1,2]"],
        ["pip", "install", ".[dev]"],
        ["pytest"],
    ]
