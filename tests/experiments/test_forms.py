"""Plan files know every form of an option that ``fedloge fit`` knows, and ``wandb agent`` makes the same runs."""

import copy
import re
from dataclasses import replace

import pytest
import yaml

from fedloge.cli import main
from fedloge.config import given_options
from fedloge.errors import FedlogeError
from fedloge.experiments.compare import load_comparison
from fedloge.experiments.figures import sweep_figure
from fedloge.experiments.study import load_study
from fedloge.experiments.sweep import load_sweep

SMALL = {"class_path": "SmallCNN", "init_args": {"channels": [4], "in_channels": 1}}
BASE = {
    "trainer": {"rounds": 1, "local_epochs": 1},
    "model": {"class_path": "FedLoGe", "init_args": {"backbone": SMALL, "beta": 0.6, "lr": 0.03}},
    "data": {"source": "Digits", "num_clients": 4, "imbalance_factor": 20},
}
RESNET = {"class_path": "CifarResNet", "init_args": {"depth": 8}}


def own(*path, value):
    """The base with one option changed, as `given_options` spells it."""
    expected = copy.deepcopy(BASE)
    place = expected
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = value
    return expected


LR = own("model", "init_args", "lr", value=0.0001)
CHANNELS = own("model", "init_args", "backbone", "init_args", "channels", value=[8, 16])
FEDAVG = {**BASE, "model": {"class_path": "FedAvg", "init_args": {"backbone": SMALL, "lr": 0.03}}}

FORMS = {
    "model.lr: {value: 0.0001}": LR,
    "model.lr: {value: 1e-4}": LR,
    "model.lr: {value: '1e-4'}": LR,
    "model.init_args.lr: {values: [1e-4]}": LR,
    "model: {parameters: {lr: {value: 1e-4}}}": LR,
    "model: {value: {lr: 0.0001}}": LR,
    "model.backbone.channels: {values: [[8, 16]]}": CHANNELS,
    "model.backbone.init_args.channels: {values: [[8, 16]]}": CHANNELS,
    "model.init_args.backbone.init_args.channels: {value: [8, 16]}": CHANNELS,
    "model.backbone: {value: {channels: [8, 16]}}": CHANNELS,
    "model: {parameters: {backbone: {parameters: {channels: {value: [8, 16]}}}}}": CHANNELS,
    "model.backbone: {values: [{class_path: CifarResNet, init_args: {depth: 8}}]}": own(
        *("model", "init_args", "backbone"),
        value={"class_path": "CifarResNet", "init_args": {"in_channels": 1, "depth": 8}},
    ),
    "model: {value: FedAvg}": FEDAVG,
    "model.class_path: {value: FedAvg}": FEDAVG,
    "model.ga: {value: false}": own("model", "init_args", "ga", value=False),
    "model.head_lr: {value: 'null'}": own("model", "init_args", "head_lr", value=None),
    "data: {parameters: {alpha: {value: 2}}}": own("data", "alpha", value=2.0),
    "data.source: {value: {class_path: fedloge.data.sources.Digits}}": BASE,
    "trainer.executor: {value: processes}\n  trainer.executor.workers: {value: 2}": own(
        "trainer", "executor", value={"class_path": "fedloge.executors.Processes", "init_args": {"workers": 2}}
    ),
    "seed_everything: {value: 5}": {**BASE, "seed_everything": 5},
}
"""Parameters of a sweep as text, and the options that they give."""

COMMANDS = {
    "[fedloge, fit, --config, CONFIG, '${args}']": {},
    "[fedloge, fit, -c, CONFIG, --trainer.rounds=3, '${args}']": {"rounds": 3},
    "['${env}', python, -m, fedloge, fit, --config=CONFIG, --trainer.rounds, 3, '${args}']": {"rounds": 3},
    "[fedloge, fit, --config, CONFIG, '${args}', --trainer.rounds=3]": {"rounds": 3},
    "[fedloge, fit, --config, CONFIG, --trainer, '{rounds: 3}', '${args}']": {"rounds": 3},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def sweep_file(folder, config, parameters, command="[fedloge, fit, --config, CONFIG, '${args}']"):
    path = folder / "sweep.yaml"
    path.write_text(f"method: grid\ncommand: {command.replace('CONFIG', str(config))}\nparameters:\n  {parameters}\n")
    return path


def agent_words(path):
    """The options that ``wandb agent`` passes to ``fedloge fit``: its server makes one value of nested parameters."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    content = yaml.safe_load(path.read_text())

    def value(entry):
        if "parameters" in entry:
            return {name: value(inner) for name, inner in entry["parameters"].items()}
        return entry["value"] if "value" in entry else entry["values"][0]

    drawn = {"args": {name: {"value": value(entry)} for name, entry in content["parameters"].items()}}
    args = utils.create_sweep_command_args(drawn)["args"]
    words = [part for word in content["command"] for part in (args if word == "${args}" else [str(word)])]
    return words[words.index("fit") + 1 :]


@pytest.mark.parametrize("parameters", FORMS)
def test_a_sweep_and_the_agent_make_the_same_run(parameters, config, tmp_path):
    path = sweep_file(tmp_path, config, parameters)
    (cell,) = load_sweep(path).cells()
    assert cell.options == FORMS[parameters] == given_options(agent_words(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_every_form(command, config, tmp_path):
    path = sweep_file(tmp_path, config, "model.lr: {value: 1e-4}", command)
    (cell,) = load_sweep(path).cells()
    assert cell.options == {**LR, "trainer": BASE["trainer"] | COMMANDS[command]} == given_options(agent_words(path))


def test_the_class_of_a_command_keeps_what_it_knows(config, tmp_path):
    command = "[fedloge, fit, --config, CONFIG, --model=FedAvg, '${args}']"
    (cell,) = load_sweep(sweep_file(tmp_path, config, "model.lr: {value: 1e-4}", command)).cells()
    assert cell.options["model"] == {"class_path": "FedAvg", "init_args": {"backbone": SMALL, "lr": 0.0001}}


OVERRIDES = {
    ("--model.lr=1e-4",): LR,
    ("--model.lr", "1e-4"): LR,
    ("--model.init_args.lr=1e-4",): LR,
    ("--model.backbone.channels=[8, 16]",): CHANNELS,
    ("--model.backbone.init_args.channels", "[8, 16]"): CHANNELS,
    ("--model.backbone={channels: [8, 16]}",): CHANNELS,
    ("--trainer.rounds", "2", "--data.alpha", "2"): {
        **BASE,
        "trainer": {"rounds": 2, "local_epochs": 1},
        "data": BASE["data"] | {"alpha": 2.0},
    },
}


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_comparisons_and_studies_know_them_too(overrides, tmp_path):
    expected = copy.deepcopy(OVERRIDES[overrides])
    expected["trainer"]["seed"] = 0
    sections = copy.deepcopy(BASE)
    del sections["model"]["class_path"]
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({**sections, "methods": {"FedLoGe": None}}))
    (tmp_path / "scale.yaml").write_text(yaml.safe_dump(sections))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"scales": {"tiny": "scale.yaml"}, "rows": {"a": None}}))
    for load, name in ((load_comparison, "compare.yaml"), (load_study, "study.yaml")):
        (cell,) = load(tmp_path / name, overrides=overrides).cells()
        assert cell.options == expected


ENTRIES = {
    "{lr: 1e-4}": LR,
    "{backbone.channels: [8, 16]}": CHANNELS,
    "{backbone: {channels: [8, 16]}}": CHANNELS,
    "{backbone: {class_path: SmallCNN, init_args: {channels: [8, 16]}}}": CHANNELS,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_row_changes_only_what_it_names(entry, tmp_path):
    """A comparison's method and a study's row are both merged deeply: in_channels stays."""
    expected = copy.deepcopy(ENTRIES[entry])
    expected["trainer"]["seed"] = 0
    (tmp_path / "scale.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "study.yaml").write_text(f"scales: {{tiny: scale.yaml}}\nrows: {{a: {{options: {entry}}}}}\n")
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(BASE) + f"methods: {{FedLoGe: {entry}}}\n")
    for load, name in ((load_comparison, "compare.yaml"), (load_study, "study.yaml")):
        (cell,) = load(tmp_path / name).cells()
        assert cell.options == expected


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ("model.lr: {value: 0.1}", ["--model.init_args.lr=0.2"], "has no effect beside '--model.init_args.lr=0.2'"),
        ("trainer.seed: {values: [0, 1]}", ["--seeds=3"], r"has no effect beside '--seeds=\[3\]'"),
        ("model.lr: {value: 0.1}\n  model: {parameters: {lr: {value: 1}}}", [], "no effect beside 'model.lr'"),
        ("model.lr: {values: [0.1, 0.1]}", [], "needs the same folder as 'lr=0.1'"),
        ("model.pm_rule: {values: [la, la+psi, 'la psi', la_psi]}", [], "pm_rule"),
        ("model.lr: {values: [0.1, null]}", [], "passes as None"),
        ("model.lr: {values: [a]}", [], "lr=a is not of the expected type"),
        ("model.lrr: {values: [1]}", [], "no option 'lrr'"),
        ("trainer.seed: {values: [a]}", [], "seeds"),
        ("model.help: {value: 1}", [], "shows something and trains nothing"),
        ("model.lr: {value: 1}\nmetric: {name: global/acc, goal: up}", [], "metric.goal='up' is unknown"),
        ("model.lr: {value: 1}\nmetric: {nam: x}", [], "metric: nam='x' is not supported"),
    ],
)
def test_what_no_agent_could_run_is_refused(parameters, options, message, config, tmp_path):
    with pytest.raises(FedlogeError, match=message):
        load_sweep(sweep_file(tmp_path, config, parameters), options)


def test_the_direction_of_a_known_metric_is_known(config, tmp_path):
    assert load_sweep(sweep_file(tmp_path, config, "model.lr: {value: 1}")).maximize
    for metric, maximize in {"personal/acc_std": False, "train/loss": False, "personal/acc_mean": True}.items():
        path = sweep_file(tmp_path, config, f"model.lr: {{value: 1}}\nmetric: {{name: {metric}}}")
        assert load_sweep(path).maximize == maximize


def test_a_dry_run_lists_the_runs_and_writes_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = sweep_file(tmp_path, config, "model.lr: {values: [0.1, 1e-4]}")
    assert main(["sweep", str(path), "--output_dir", "out", "--dry_run", "--seeds", "0,1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "4 runs, of which 0 are done",
        *(f"  waiting    lr={lr}, seed {seed}: out/lr_{lr}/seed-{seed}" for seed in (0, 1) for lr in ("0.1", "0.0001")),
    ]
    assert not (tmp_path / "out").exists()


def test_lists_and_mappings_are_categories_of_the_picture(config, tmp_path):
    channels = "model.backbone: {values: [{class_path: SmallCNN, init_args: {channels: [8]}}, SmallCNN]}"
    lists = "model.backbone.channels: {values: [[8, 16], [4]]}"
    plan = load_sweep(sweep_file(tmp_path, config, f"{channels}\n  {lists}"))
    rows = [replace(row, values={"GM": [0.1 * n], "PM": [0.5]}) for n, row in enumerate(plan.rows)]
    figure = sweep_figure(plan, rows)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["[8, 16]", "[4]"]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[0] == "SmallCNN"
    assert re.fullmatch(r"\{'class_path': 'Smal….*'channels': \[8\]\}\}", labels[1])  # cut to fit the axis
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0.0", "10.0", "20.0", "30.0"]
