"""A tiny random model from a local folder, measured by the same code."""

import json
import sys

import pytest
import torch

from fedloge import collapse
from fedloge.cli import main
from fedloge.collapse.lab import huggingface
from fedloge.collapse.lab.huggingface import HuggingFace, load, run
from fedloge.errors import ConfigError, DataError

WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of two layers and 30 words, and a text in which the first words are the most frequent."""
    transformers = pytest.importorskip("transformers", reason="transformers (fedloge[hf]) is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("hf")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    config = transformers.GPT2Config(vocab_size=30, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    numbers = (30 * torch.rand(2000, generator=torch.Generator().manual_seed(0)).square()).long()
    (path / "text.txt").write_text(" ".join(WORDS[i] for i in numbers))
    return path


def options(folder, tmp_path, **more):
    text = str(folder / "text.txt")
    return HuggingFace(**{"model": str(folder), "text": text, "context": 16, "output": str(tmp_path / "out"), **more})


def test_measurement_is_that_of_the_heads_inputs(folder, tmp_path, capsys):
    values = run(options(folder, tmp_path, min_count=50))
    assert 2 <= values["classes"] < 30
    model, tokenizer = load(str(folder))
    numbers = torch.tensor(tokenizer((folder / "text.txt").read_text())["input_ids"]).view(-1, 16)
    held = torch.arange(len(numbers)) % 10 == 9
    with torch.no_grad():
        parts = [
            (model.model.transformer(part[:, :-1]).last_hidden_state.flatten(0, 1), part[:, 1:].flatten())
            for part in (numbers[~held], numbers[held])
        ]
    head = model.head.weight
    expected = collapse.measure(*parts[0], head, heldout=parts[1], min_count=50, cdnv_power=2)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    loss = torch.nn.functional.cross_entropy(parts[1][0] @ head.T, parts[1][1])
    assert values["val_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["tokens"] == 2000
    assert "val_loss" in capsys.readouterr().out


def test_the_command_line(folder, tmp_path):
    arguments = [f"--model={folder}", f"--text={folder / 'text.txt'}", "--context=16", f"--output={tmp_path / 'out'}"]
    assert main(["collapse", "huggingface", *arguments]) == 0


def test_a_text_that_is_too_short(folder, tmp_path):
    (tmp_path / "short.txt").write_text("w1 w2 " * 30)
    with pytest.raises(ConfigError, match=r"60 tokens, which make 3 windows of 16\. Ten are needed"):
        run(options(folder, tmp_path, text=str(tmp_path / "short.txt")))


def test_a_folder_without_weights(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(DataError, match="does not hold a causal language model"):
        run(options(folder, tmp_path, model=str(tmp_path)))


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        HuggingFace("gpt2", "text.txt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no file"):
        HuggingFace(str(tmp_path), "text.txt")


def test_without_transformers_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"fedloge\[hf\]"):
        huggingface.load(str(tmp_path))
