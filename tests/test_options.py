"""Nested options and the words of a command line."""

import pytest

from fedloge.errors import FedlogeError
from fedloge.options import arguments, check_options, joined, option_name, read_mapping, set_own


def test_a_value_may_stand_in_a_word_of_its_own():
    words = ["--trainer.rounds", "2", "--a=b", "c", "--dry_run", "file", "--model.lr", "-1", "--x", "--y"]
    expected = ["--trainer.rounds=2", "--a=b", "c", "--dry_run", "file", "--model.lr=-1", "--x", "--y"]
    assert joined(words, ["--dry_run"]) == expected


def test_options_become_arguments():
    options = {"lr": 1e-4, "channels": [8, 16], "head_lr": None, "ga": False, "name": "null"}
    expected = ["lr=0.0001", "channels=[8, 16]", "head_lr=null", "ga=false", "name=null"]
    assert arguments(options, "model.") == [f"--model.{text}" for text in expected]
    assert arguments({"a": {"b": {"c": 1}}}) == ["--a={b: {c: 1}}"]


def test_a_name_has_one_spelling():
    assert option_name("--model.init_args.backbone.init_args.depth=8") == "model.backbone.depth"
    assert option_name("--trainer.callbacks+=X") == "trainer.callbacks"
    with pytest.raises(FedlogeError, match="'x=1' is not an option"):
        option_name("x=1")


def test_keys_of_a_file_are_set_and_options_of_fit_returned():
    content = {"methods": {"FedAvg": None, "γ 0.1": {"gamma": 0.1}}}
    words = ["--methods.γ 0.1.gamma=1e-1", "--methods.FedAvg.lr", "0.5", "--seeds=0,1", "--model.lr=1"]
    assert set_own(content, words, ["methods", "seeds"]) == ["--model.lr=1"]
    assert content == {"methods": {"FedAvg": {"lr": 0.5}, "γ 0.1": {"gamma": 0.1}}, "seeds": "0,1"}
    for word, message in {
        "--seeds.x=1": "seeds is not a section",
        "--seeds=[": "is not YAML",
        "--sed=1": "Did you mean 'seeds'",
        "--trainer.run_dir=x": "has no effect here",
    }.items():
        with pytest.raises(FedlogeError, match=message):
            set_own({"seeds": 0}, [word], ["seeds"])


def test_files_are_read_as_fit_reads_them(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: 1e-4\nb: '1e-4'\nc: 1.5\nd: [2e3]\n")
    assert read_mapping(path, "FILE") == {"a": 1e-4, "b": "1e-4", "c": 1.5, "d": [2000.0]}
    for text, message in {
        "a: 1\na: 2\n": "the key 'a' stands twice",
        "a: {b: 1, b: 2}\n": "the key 'b' stands twice",
        "a: &a {b: *a}\n": "contains itself",
        "- 1\n": "holds no mapping",
    }.items():
        path.write_text(text)
        with pytest.raises(FedlogeError, match=message):
            read_mapping(path, "FILE")


def test_a_key_that_stands_twice_is_refused_by_fit_too(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("trainer: {rounds: 1, rounds: 2}\n")
    with pytest.raises(FedlogeError, match="the key 'rounds' stands twice"):
        check_options(["--config", str(path)])
