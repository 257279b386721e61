import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import fedloge
from fedloge.cli import VERBS, main
from fedloge.options import check_options

ROOT = Path(__file__).parents[1]
QUICKSTART = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
SHORT = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main([*QUICKSTART, *SHORT, f"--trainer.run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A long-tailed folder of colour images in ten classes."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 6), ("test", 2)):
        for c in range(10):
            (root / part / f"class{c}").mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (25 * c, 40 * i, 9)).save(root / part / f"class{c}" / f"{i}.png")
    return root


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


CONFIGS = [
    pytest.param(name, marks=pytest.mark.slow if "cifar100" in name else ())
    for folder in (".", "cifar10_lt", "cifar100_lt")
    for name in sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs" / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_runs_two_rounds_on_tiny_data(config, folder, tmp_path):
    settings = yaml.safe_load((ROOT / config).read_text())
    source = [] if config.endswith("quickstart.yaml") else [f"--data.source.init_args.root={folder}"]
    if "cifar" in str(settings["data"]["source"]).lower():
        settings["data"]["source"] = {"class_path": "ImageFolder", "init_args": {"root": str(folder)}}
        source = []
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    small = ["--data.num_clients=2", "--data.imbalance_factor=3", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert main(["fit", "--config", str(path), *source, *small, *SHORT]) == 0
    assert summary(tmp_path / "run")["rounds"] == 2


def test_the_saved_config_repeats_the_run_to_the_bit(quickstart, tmp_path):
    assert main(["fit", "--config", str(quickstart / "config.yaml"), f"--trainer.run_dir={tmp_path / 'again'}"]) == 0
    for name in ("last", "final"):
        for part in ("shared", "clients"):
            file = Path("checkpoints") / name / f"{part}.safetensors"
            assert (tmp_path / "again" / file).read_bytes() == (quickstart / file).read_bytes()
    first, second = summary(quickstart), summary(tmp_path / "again")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_json_lines_say_what_happens(tmp_path, capsys):
    assert main([*QUICKSTART, *SHORT, "--log_format=json", f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["start", "round", "round", "end"]
    assert lines[0]["parameters"] == 20212
    assert lines[0]["seconds_round"] > 0
    assert lines[2]["global/acc"] == lines[3]["global"]["acc"]


def test_quiet_is_quiet(tmp_path, capsys):
    assert main([*QUICKSTART, *SHORT, "--quiet", f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out == ""
    assert "--log_format='xml' is unknown" in fail(capsys, *QUICKSTART, "--log_format=xml")
    assert "Leave one of them out" in fail(capsys, *QUICKSTART, "--quiet", "--log_format=json")


def test_other_precisions_run(tmp_path):
    options = ["--trainer.precision=64-true", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert main([*QUICKSTART, *SHORT, *options]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.executor=processes", "--trainer.executor.workers=2"],
        ["--trainer.executor=cuda", "--trainer.executor.lanes=2", "--trainer.executor.graphs=false"],
    ],
)
def test_the_executor_does_not_change_a_run(quickstart, tmp_path, options):
    assert main([*QUICKSTART, *SHORT, *options, f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    for part in ("shared", "clients"):
        file = Path("checkpoints") / "final" / f"{part}.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (quickstart / file).read_bytes()
    assert (tmp_path / "run" / "per_client.csv").read_bytes() == (quickstart / "per_client.csv").read_bytes()


def test_executors_that_do_not_exist_are_named(capsys):
    assert "Did you mean 'processes'?" in fail(capsys, *QUICKSTART, "--trainer.executor=proceses")
    error = fail(capsys, *QUICKSTART, "--trainer.executor=serial", "--trainer.executor.workers=2")
    assert "no option 'workers' in fedloge.executors.Serial" in error


def test_cuda_needs_a_gpu_or_no_graphs(capsys):
    error = fail(capsys, *QUICKSTART, *SHORT, "--trainer.executor=cuda")
    assert "captures CUDA graphs, but the device is cpu. Take auto, or --trainer.executor.graphs=false." in error


def test_seed_everything_is_the_seed(tmp_path):
    runs = {"a": "--seed_everything=5", "b": "--trainer.seed=5"}
    for name, option in runs.items():
        assert main([*QUICKSTART, *SHORT, option, f"--trainer.run_dir={tmp_path / name}"]) == 0
    file = "checkpoints/last/shared.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_two_seeds_are_refused(capsys):
    error = fail(capsys, *QUICKSTART, "--seed_everything=5", "--trainer.seed=6")
    assert "seed_everything=5 but trainer.seed=6. Leave one of them out." in error
    assert "seed_everything=True draws no seed" in fail(capsys, *QUICKSTART, "--seed_everything=true")


@pytest.mark.skipif(torch.cuda.is_available(), reason="16-mixed is possible on a GPU")
def test_a_precision_that_the_device_lacks_is_refused(capsys, tmp_path):
    options = ["--trainer.precision=16-mixed", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert "trainer.precision='16-mixed' is not possible on this device" in fail(capsys, *QUICKSTART, *options)
    assert not (tmp_path / "run").exists()


def test_test_gives_the_same_numbers(quickstart, capsys):
    from fedloge.runs.run import test_run

    again = test_run(quickstart)
    assert again == summary(quickstart)
    assert main(["test", str(quickstart)]) == 0
    assert f"{100 * again['global']['acc']:.2f}" in capsys.readouterr().out


def test_realign_again(quickstart, tmp_path):
    before = {path: path.read_bytes() for path in quickstart.rglob("*") if path.is_file()}
    target = tmp_path / "aligned"
    options = ["--ga_scale=1.0", "--ga_bias=drop", "--pm_rule=phi+la", "--finetune_epochs=1"]
    assert main(["realign", str(quickstart), *options, f"--output_dir={target}"]) == 0
    assert {path: path.read_bytes() for path in quickstart.rglob("*") if path.is_file()} == before
    new, old = summary(target), summary(quickstart)
    assert new["before_realignment"]["global"] == old["before_realignment"]["global"]
    weight = fedloge.load_run(target).generic().method.psi.weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(10))
    assert main(["test", str(target)]) == 0


def test_realign_with_the_same_options_gives_the_same_models(quickstart, tmp_path):
    assert main(["realign", str(quickstart), f"--output_dir={tmp_path / 'same'}"]) == 0
    for part in ("shared", "clients"):
        file = Path("checkpoints") / "final" / f"{part}.safetensors"
        assert (tmp_path / "same" / file).read_bytes() == (quickstart / file).read_bytes()


def test_loaded_models_predict(quickstart):
    run = fedloge.load_run(quickstart)
    run.data.setup()
    images = run.data.dataset.test.gather(torch.arange(400))
    probabilities = run.generic().predict_step(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(400))
    accuracy = (probabilities.argmax(1) == run.data.test_labels).double().mean()
    assert float(accuracy) == pytest.approx(run.summary["global"]["acc"])
    batches = DataLoader(TensorDataset(images), batch_size=100)
    lightly = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).predict(run.generic(), batches)
    torch.testing.assert_close(torch.cat(lightly), probabilities)
    own = run.data.client_test_indices(3)
    correct = run.personal(3).predict_step(images[own].float() / 255).argmax(1) == run.data.test_labels[own]
    scores = [row for row in run.folder.rows("per_client.csv") if (row["client"], row["view"]) == ("3", "personal")]
    assert float(correct.double().mean()) == pytest.approx(float(scores[-1]["accuracy"]), abs=1e-6)


def fail(capsys, *args):
    assert main(list(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedloge: error: ")
    assert error.count("\n") == 1
    return error


BAD = {
    "--trainer.round=3": "no option 'trainer.round'. Did you mean 'rounds'?",
    "--model.gama=2": "no option 'gama' in fedloge.FedLoGe. Did you mean 'gamma'?",
    "--data.alpa=2": "no option 'data.alpa'. Did you mean 'alpha'?",
    "--model.gamma=-1": "model.gamma=-1.0 must be positive",
    "--model.beta=1.5": "model.beta=1.5 must lie in [0, 1)",
    "--model.beta=-0.1": "model.beta=-0.1 must lie in [0, 1)",
    "--data.imbalance_factor=0": "data.imbalance_factor=0.0 must be positive",
    "--data.alpha=0": "data.alpha=0.0 must be positive",
    "--trainer.participation=0": "trainer.participation=0.0 must lie in (0, 1]",
    "--trainer.participation=1.1": "trainer.participation=1.1 must lie in (0, 1]",
    "--data.num_clients=1000": "data.num_clients=1000 is too many for 477 training images",
    "--trainer.rounds=abc": "trainer.rounds=abc is not of the expected type",
    "--model.sse_solver=foo": "model.sse_solver",
    "--model=FedNope": "model: there is no class 'FedNope'",
    "--model.backbone=Nope": "model.backbone: there is no class 'Nope'",
    "--trainer.executor=nope": "trainer.executor: there is no class 'nope'. Choose one of auto, serial, processes, ray",
    "--trainer.executor.workers=2": "trainer.executor=auto has no options of its own. Name one of serial,",
    "--data.source=Digit": "no class 'Digit'. Did you mean 'Digits'?",
    "--trainer.accelerator=cuda": "trainer.accelerator='cuda' cannot be used",
    "--model.backbone.init_args.channels=[4]": "out_features=4 is too small for 10 equiangular classes",
    "--model.backbone.init_args.in_channels=3": "in_channels=3 but the images have 1 channel(s)",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_options_get_one_line(option, capsys, tmp_path):
    if "cuda" in option and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    error = fail(capsys, *QUICKSTART, f"--trainer.run_dir={tmp_path / 'run'}", option)
    assert BAD[option] in error
    assert not (tmp_path / "run").exists()


def test_bad_files_get_one_line(capsys, tmp_path):
    (tmp_path / "key.yaml").write_text("trainer: {roundz: 3}\n")
    assert "no option 'roundz'. Did you mean 'rounds'?" in fail(capsys, "fit", "--config", str(tmp_path / "key.yaml"))
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text("model: {class_path: collections.OrderedDict}\ndata: {source: Digits}\n")
    assert "OrderedDict" in fail(capsys, "fit", "--config", str(foreign))


def test_yaml_takes_a_bare_off(tmp_path):
    text = (ROOT / "configs" / "quickstart.yaml").read_text().replace("trainer:", "trainer:\n  mask_absent: off", 1)
    (tmp_path / "off.yaml").write_text(text)
    assert main(["fit", "--config", str(tmp_path / "off.yaml"), *SHORT, f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    assert summary(tmp_path / "run")["mask_absent"] == "off"


def test_overrides_before_the_config_would_be_lost(capsys):
    error = fail(capsys, "fit", "--trainer.rounds=3", *QUICKSTART[1:])
    assert "--trainer.rounds=3 stands before --config" in error


def test_what_is_no_run(capsys, tmp_path):
    assert "is not a run" in fail(capsys, "test", str(tmp_path))
    assert "is not a run" in fail(capsys, "realign", str(tmp_path / "absent"))
    assert "no verb 'fti'" in fail(capsys, "fti")


def test_an_older_run_is_refused(quickstart, capsys):
    assert "--trainer.overwrite=true" in fail(capsys, *QUICKSTART, f"--trainer.run_dir={quickstart}")


def test_dataset_that_is_missing(capsys, tmp_path):
    config = str(ROOT / "configs" / "cifar10_lt" / "fedloge.yaml")
    options = [f"--data.source.init_args.root={tmp_path}", f"--trainer.run_dir={tmp_path / 'run'}"]
    error = fail(capsys, "fit", "--config", config, *options)
    assert "download is off" in error
    assert str(tmp_path) in error


def test_bad_folders_get_one_line(capsys, folder, tmp_path):
    config = ["fit", "--config", str(ROOT / "configs" / "cifar10_lt" / "small.yaml")]
    where = [f"--data.source.init_args.root={tmp_path / 'copy'}", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert "no folder" in fail(capsys, *config, *where)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "class3" / "0.png").write_bytes(b"nonsense")
    assert "0.png' is not an image" in fail(capsys, *config, *where)
    shutil.rmtree(tmp_path / "copy" / "train" / "class4")
    assert "only in test ['class4']" in fail(capsys, *config, *where)
    for part in ("train", "test"):
        for c in range(1, 10):
            shutil.rmtree(tmp_path / "copy" / part / f"class{c}", ignore_errors=True)
    assert "has 1 class folder" in fail(capsys, *config, *where)
    assert not (tmp_path / "run").exists()


def test_no_noise_on_the_real_command_line(tmp_path):
    """A user's terminal shows the run and nothing of Lightning's own."""
    command = [sys.executable, "-m", "fedloge", *QUICKSTART, *SHORT, f"--trainer.run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("FedLoGe on digits: 10 clients, 477 training images, IF 20 (max/min)")
    assert "realigned" in done.stdout
    assert str(tmp_path) in done.stdout.replace("\n", "")
    assert "GPU available" not in done.stdout


def test_help_and_version_do_not_import_torch():
    code = (
        "import sys; from fedloge.cli import main; main(['--help']); main(['--version']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert f"fedloge {fedloge.__version__}" in done.stdout


def test_what_lightning_misses_is_said_in_a_line(monkeypatch, capsys):
    class Missing:
        def __bool__(self):
            return False

        def __str__(self):
            return "Requirement 'jsonargparse[signatures]' not met. HINT: Try running `pip install`"

    monkeypatch.setattr("lightning.pytorch.cli._JSONARGPARSE_SIGNATURES_AVAILABLE", Missing())
    assert main(QUICKSTART) == 2
    assert capsys.readouterr().err == f"fedloge: error: {Missing()}\n"


WITHOUT_TORCH = {
    "fti": "no verb 'fti'. Did you mean 'fit'?",
    "fit --config absent.yaml": "--config='absent.yaml' cannot be read: No such file or directory.",
    "fit --config=syntax.yaml": "--config='syntax.yaml' is not YAML: while parsing a flow",
    "fit -c binary.yaml": "--config='binary.yaml' is not a text in UTF-8",
    "fit --config empty.yaml": "--config='empty.yaml' holds no mapping. Write sections such as trainer,",
    "fit --config unknown.yaml": "there is no option 'modle' in --config='unknown.yaml'. Did you mean 'model'?",
    "fit --config good.yaml --trainr.rounds=3": "there is no option 'trainr.rounds'. Did you mean 'trainer'?",
    "fit --config good.yaml --quite": "there is no option 'quite'. Did you mean 'quiet'?",
    "fit --config good.yaml --x=1": "no option 'x'. The sections are trainer, model, data, report, seed_everything.",
    "fit --trainer.rounds=3 --config good.yaml": "--trainer.rounds=3 stands before --config",
    "fit good.yaml": "'good.yaml' is not an option. A configuration is given as --config=good.yaml.",
    "partition --config absent.yaml": "--config='absent.yaml' cannot be read",
    "compare --config syntax.yaml": "--config='syntax.yaml' is not YAML",
    "study good.yaml absent.yaml": "FILE='absent.yaml' cannot be read",
    "sweep absent.yaml": "FILE='absent.yaml' cannot be read",
    "resume absent": "'absent' is not a run: it has no environment.json",
    "resume whole --config absent.yaml": "--config='absent.yaml' cannot be read",
    "test run": "--config='run/config.yaml' is not YAML",
    "realign .": "'.' is not a run",
    "predict absent good.yaml": "'absent' is not a run",
    "predict whole absent.png": "no file or folder 'absent.png'",
    "predict whole good.yaml --formt=csv": "there is no option 'formt'. Did you mean 'format'?",
    "export absent --output out": "'absent' is not a run",
    "new-client whole absent": "no file or folder 'absent'",
    "report whole absent": "'absent' is not a run",
    "analyze whole absent --output out": "'absent' is not a run",
    "analyze python": "'python' has no config.yaml",
}
"""Commands with mistakes that are found before torch is imported, and what is said of them."""


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """A folder with configurations and run folders, good and bad."""
    root = tmp_path_factory.mktemp("mistakes")
    texts = {
        "syntax": b"trainer: [\n",
        "binary": b"report: \xff",
        "empty": b"",
        "unknown": b"modle: {}",
        "good": b"model: {}",
    }
    for name, text in texts.items():
        (root / f"{name}.yaml").write_bytes(text)
    for name, text in {"run": b"trainer: [\n", "whole": b"model: {}", "python": None}.items():
        (root / name).mkdir()
        (root / name / "environment.json").write_text("{}")
        if text is not None:
            (root / name / "config.yaml").write_bytes(text)
    return root


@pytest.mark.parametrize("command", WITHOUT_TORCH)
def test_mistakes_are_reported_before_torch_is_imported(command, mistakes):
    code = "import sys; from fedloge.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, cwd=mistakes)
    assert done.stdout == "False 2\n"
    assert done.stderr.count("\n") == 1
    assert WITHOUT_TORCH[command] in done.stderr


@pytest.mark.parametrize("config", ["{trainer: {rounds: 3}}", "file:///absent.yaml", "trainer:\n  rounds: 3"])
def test_addresses_and_yaml_in_place_are_left_to_jsonargparse(config):
    check_options(["--config", config])


def test_files_may_be_merged_and_use_dotted_keys(tmp_path):
    (tmp_path / "some.yaml").write_text("<<: {report: false}\ntrainer.rounds: 3\nconfig: other.yaml\n")
    check_options(
        ["--config", str(tmp_path / "some.yaml"), "--trainer.callbacks+=X", "--print_config", "--model.help=X"]
    )


def test_an_interrupt_before_the_run_is_reported(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "fedloge: interrupted; everything saved so far is kept\n"


def test_an_interrupt_ends_with_130_and_keeps_the_checkpoint(tmp_path):
    options = ["--trainer.rounds=10000", "--trainer.checkpoint_every=1", f"--trainer.run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedloge", *QUICKSTART, *options], stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last" / "state.json"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"fedloge: interrupted; stopped after round \d+ of 10000, which is saved \(GM [\d.]+ %, PM [\d.]+ %\)\n", error
    )
    state = json.loads(checkpoint.read_text())
    assert f"round {state['round']} " in error
    assert fedloge.load_run(tmp_path / "run").state("last").round >= 1
