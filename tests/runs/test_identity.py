"""A run's identity is what its labels and images mean: its models need no data, and its verbs refuse other data."""

import json
import os
import shutil

import pytest
import yaml

import fedloge
from fedloge.cli import main
from fedloge.inference.models import load_finished
from image_trees import coloured, paint_class

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images in ``pets`` and a run in ``run`` that knows them; nobody changes it."""
    home = tmp_path_factory.mktemp("home")
    coloured(home / "pets")
    backbone = {"class_path": "SmallCNN", "init_args": {"channels": [8]}}
    settings = {
        "trainer": {"rounds": 6, "local_epochs": 4, "accelerator": "cpu", "executor": "serial", "run_dir": "run"},
        "model": {"class_path": "FedLoGe", "init_args": {"backbone": backbone, "gamma": 1.0, "beta": 0.3, "lr": 0.1}},
        "data": {"source": {"class_path": "ImageFolder", "init_args": {"root": "pets", "image_size": 12}}},
        "report": False,
    }
    settings["data"] |= {"num_clients": 2, "alpha": 100.0, "imbalance_factor": None, "batch_size": 4}
    (home / "fit.yaml").write_text(yaml.safe_dump(settings))
    before = os.getcwd()
    os.chdir(home)
    assert main(["fit", "--config", "fit.yaml", "--quiet"]) == 0
    os.chdir(before)
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def refusal(capsys):
    """Runs a command that must be refused, and returns its line of error."""

    def run(*args):
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 2
        error = capsys.readouterr().err
        assert error.startswith("fedloge: error: ")
        assert error.count("\n") == 1
        return error

    return run


def predicted(capsys, *args):
    capsys.readouterr()
    assert main(["predict", *map(str, args), "--format=csv"]) == 0
    return [line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]]


def rename(home, old, new):
    for part in ("train", "test"):
        (home / "pets" / part / old).rename(home / "pets" / part / new)


def test_the_folder_says_what_labels_and_images_mean(home):
    record = json.loads((home / "run" / "data.json").read_text())
    assert record["class_names"] == list(CLASSES)
    assert (record["image_size"], record["channels"], record["fitted"]) == (12, 3, True)
    assert record["mean"] == [0.485, 0.456, 0.406]
    assert {part: digest["count"] for part, digest in record["images"].items()} == {"train": 36, "test": 12}


def test_models_name_the_classes_that_they_learnt(home, capsys):
    """The first class is called another name on disk, which changes the order of the names."""
    rename(home, "ant", "zant")
    images = [home / "pets" / "test" / name / "0.png" for name in ("zant", "bee", "cat")]
    assert predicted(capsys, "run", *images) == list(CLASSES)
    other = "--data.source.init_args.root=pets"
    assert predicted(capsys, "run", *images, other) == list(CLASSES)


def test_models_need_neither_the_data_nor_the_folder_of_the_training(home, tmp_path, capsys, monkeypatch):
    (tmp_path / "clinic").mkdir()
    for name in ("bee", "cat"):
        shutil.copytree(home / "pets" / "test" / name, tmp_path / "clinic" / name)
    (home / "pets").rename(tmp_path / "away")
    monkeypatch.chdir(tmp_path)
    images = [tmp_path / "away" / "test" / name / "1.png" for name in CLASSES]
    assert predicted(capsys, home / "run", *images) == list(CLASSES)
    assert main(["export", str(home / "run"), "--client=all", "--output", "exported"]) == 0
    about = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert about["classes"] == list(CLASSES)
    assert about["image"] == {"channels": 3, "size": 12, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert main(["new-client", str(home / "run"), "clinic", "--epochs=2", "--output", "clinic-model"]) == 0
    assert len(predicted(capsys, home / "run", *images, "--client=clinic-model")) == 3


def test_another_source_is_refused_by_all_that_read_data(home, refusal):
    rename(home, "ant", "zant")
    before = {path: path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()}
    for command in (["test"], ["resume", "--trainer.rounds=7"], ["realign", "--ga_scale=2"], ["analyze"]):
        verb, *options = command
        error = refusal(verb, "run", *options)
        assert "'run' was trained on other data than pets is now: class 0 is 'ant' (now 'bee')" in error
    assert {path: path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda pets: (pets / "train" / "ant" / "3.png").unlink(), (), "train images: 1 of class 'ant' are gone"),
        (
            lambda pets: paint_class(pets / "test" / "cat" / "x.png", 2, 9),
            (),
            "1 are new: 'test/cat/x.png'",
        ),
        (lambda pets: None, ("--data.source.init_args.image_size=10",), "image_size=12 (now 10)"),
        (lambda pets: None, ("--data.source.init_args.std=[1,1,1]",), "(now (1.0, 1.0, 1.0))"),
    ],
    ids=["gone", "new", "size", "std"],
)
def test_what_differs_is_named(home, refusal, change, options, message):
    change(home / "pets")
    assert message in refusal("test", "run", *options)


def test_the_same_data_elsewhere_are_accepted(home, capsys):
    shutil.make_archive("moved", "zip", home, "pets")  # with the folder at its top
    shutil.rmtree(home / "pets")
    root = "--data.source.init_args.root=moved.zip"
    assert main(["test", "run", root]) == 0
    assert main(["resume", "run", "--trainer.rounds=7", root]) == 0
    assert main(["realign", "run", "--ga_scale=2", root]) == 0
    record = (home / "run" / "data.json").read_bytes()
    assert (home / "run" / "realigned-1" / "data.json").read_bytes() == record


def test_a_folder_from_before_is_used_as_before(home, refusal, capsys):
    (home / "run" / "data.json").unlink()
    assert main(["test", "run"]) == 0
    assert predicted(capsys, "run", home / "pets" / "test" / "bee" / "0.png") == ["bee"]
    rename(home, "ant", "zant")
    assert main(["test", "run"]) == 0
    (home / "pets").rename(home / "away")
    assert "no folder" in refusal("predict", "run", home / "away" / "test" / "bee" / "0.png")


def test_a_damaged_record_is_named(home, refusal):
    (home / "run" / "data.json").write_text("{")
    assert "data.json' is not the record of a run's data" in refusal("predict", "run", "pets")


def test_from_python(home):
    shutil.rmtree(home / "pets")
    run = load_finished("run")
    assert run.generic().class_names == CLASSES
    with pytest.raises(fedloge.errors.DataError, match="the images of pets are not at hand"):
        run.attach()


def test_the_report_counts_images_that_were_left_out(home):
    path = home / "run" / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"left_out": {"train": 2, "test": 1}}))
    assert main(["report", "run", "--format=md", "--output=report.md"]) == 0
    assert "run: 3 image(s) could not be read and were left out." in (home / "report.md").read_text()


def test_the_report_of_runs_on_different_data_says_so(home):
    shutil.copytree(home / "run", home / "other")
    rename(home, "ant", "zant")
    assert main(["fit", "--config", "fit.yaml", "--trainer.rounds=1", "--trainer.run_dir=third", "--quiet"]) == 0
    told = "The runs were made on different data"
    for runs, different in ((("run", "other"), False), (("run", "third"), True)):
        assert main(["report", *runs, "--format=md", "--output=report.md"]) == 0
        assert (told in (home / "report.md").read_text()) == different


@pytest.mark.parametrize("verb", ["predict", "new-client", "fit"])
def test_names_that_are_not_utf8_are_refused_at_the_start(home, refusal, verb):
    name = os.fsdecode(b"b\xe9e")
    (home / "clinic" / name).mkdir(parents=True)
    shutil.copy(home / "pets" / "test" / "bee" / "0.png", home / "clinic" / name / "0.png")
    options = {"predict": ["run", "clinic"], "new-client": ["run", "clinic"], "fit": ["--config", "fit.yaml"]}[verb]
    if verb == "fit":
        for part in ("train", "test"):
            (home / "pets" / part / "bee").rename(home / "pets" / part / name)
        options.append("--trainer.run_dir=new")
    assert r"are not UTF-8: b'b\xe9e'. Rename them." in refusal(verb, *options)
    assert not (home / "new").exists()
    assert r"1 name(s) of the command line are not UTF-8: b'b\xe9e'" in refusal(verb, name)


def test_a_split_is_used_for_the_images_that_it_was_made_for(home, refusal):
    fit = ["fit", "--config", "fit.yaml", "--trainer.rounds=1", "--trainer.run_dir=new", "--quiet"]
    split = "--data.partition_file=run/partition.json"
    assert main([*fit, split, "--data.source.init_args.image_size=10"]) == 0
    rename(home, "ant", "zant")
    error = refusal(*fit, split, "--trainer.overwrite=true")
    assert "data.partition_file='run/partition.json' was made for other images than those of pets: class 0 is" in error
