"""Text, the small language model, and its measurement. Property 10: collapse grows with training."""

import json
import math
import sys
from dataclasses import asdict

import pytest
import torch

from fedloge import collapse
from fedloge.collapse.lab import corpus as text
from fedloge.collapse.lab import language
from fedloge.collapse.lab.language import (
    Language,
    Transformer,
    correlate,
    measure_model,
    next_token_loss,
    run,
    train,
    windows,
)
from fedloge.errors import ConfigError

SETTINGS = Language()


@pytest.fixture(scope="module")
def data():
    return text.corpus(1000)


def measured(data, steps, width=32):
    model = train(SETTINGS, data, width, 1, steps, seed=0)
    return measure_model(model, windows(data.train, 64), windows(data.heldout, 64), min_count=5)


def test_tokens():
    assert text.TOKEN.findall("it's 42\nx_1 = é") == ["it", "'", "s", "4", "2", "\n", "x_", "1", "=", "é"]


def test_corpus_of_python(data):
    """About 114,000 training and 12,000 held-out tokens; 996 of 1001 seen 5 times as targets."""
    if data.source != "pydoc_data.topics":
        pytest.skip("this Python has no pydoc_data.topics")
    assert data.train.shape[1] == data.heldout.shape[1] == 512
    assert len(data.heldout) == (len(data.train) + len(data.heldout)) // 10
    assert len(data.vocabulary) == 1001
    assert data.train.numel() == pytest.approx(114_000, rel=0.1)
    assert data.heldout.numel() == pytest.approx(12_000, rel=0.1)
    targets = windows(data.train, 64)[:, 1:].flatten().bincount(minlength=1001)
    assert int((targets >= 5).sum()) == pytest.approx(996, abs=5)


def test_docstrings_stand_in_for_the_help_texts(tmp_path, monkeypatch):
    (tmp_path / "b.py").write_text('"""Module."""\ndef f():\n    """Function."""\n')
    (tmp_path / "a.py").write_text("class A:\n    '''Class.'''\n")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(text.sysconfig, "get_path", lambda _: str(tmp_path))
    assert text.python_text() == ("Class.\nModule.\nFunction.", "docstrings of the standard library")


def test_heldout_chunks_are_apart():
    words = " ".join("abcdefghij"[i] * 2 for i in range(10) for _ in range(512))
    data = text.corpus(20, words)
    assert [data.vocabulary[i] for i in data.heldout.unique().tolist()] == ["jj"]
    assert "jj" not in {data.vocabulary[i] for i in data.train.unique().tolist()}


def test_the_model_does_not_look_ahead():
    model = Transformer(20, 16, 2, 8, seed=0).eval()
    tokens = torch.randint(20, (3, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 20
    first, second = model.logits(tokens), model.logits(changed)
    torch.testing.assert_close(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 5:], second[:, 5:])


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    first = train(SETTINGS, text.corpus(20), 16, 1, 2, seed=0).state_dict()
    torch.manual_seed(2)
    second = train(SETTINGS, text.corpus(20), 16, 1, 2, seed=0).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_measurement_is_that_of_the_heads_inputs():
    """Positions without a next token are dropped; tokens below min_count are left out of NC4 too."""
    model = Transformer(20, 16, 1, 8, seed=0).eval()
    parts = torch.randint(20, (70, 8)), torch.randint(20, (10, 8))
    values = measure_model(model, *parts, min_count=20)
    with torch.no_grad():
        (h, y), heldout = ((model.hidden(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()) for part in parts)
        loss = float(next_token_loss(model, parts[1]))
    expected = collapse.measure(h, y, model.head.weight, heldout=heldout, min_count=20, cdnv_power=2)
    assert 0 < expected["classes"] < 20
    assert values["val_loss"] == pytest.approx(loss)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-6), name


def test_untrained_model(data):
    """val loss log 1001 = 6.9, GNC2 variance .025 (random directions: 1/4d), norm CV .376, NC3 0, NC4 about chance."""
    values = measured(data, 0)
    assert values["val_loss"] == pytest.approx(math.log(1001), abs=0.05)
    assert values["gnc2_var"] == pytest.approx(0.025, abs=0.01)
    assert values["equinorm"] == pytest.approx(0.376, abs=0.03)
    assert values["unc3_var"] == pytest.approx(0.030, abs=0.005)
    assert values["nc3_cosine"] == pytest.approx(0, abs=0.02)
    assert values["nc4"] < 0.005
    assert values["etf_error"] > values["etf_floor"] > 1


@pytest.mark.slow
def test_collapse_grows_with_training(data):
    """From step 150 to 400 loss, log CDNV, GNC2 variance, norm CV and UNC3 fall, NC3 and NC4 rise."""
    early, late = measured(data, 150), measured(data, 400)
    for name in ("val_loss", "cdnv_log", "gnc2_var", "equinorm", "unc3_var"):
        assert late[name] < early[name], name
    for name in ("nc3_cosine", "nc4"):
        assert late[name] > early[name], name


MEASURED = ("val_loss", "cdnv_log", "gnc2_var", "equinorm", "unc3_var", "nc3_cosine", "nc4")
TOLERANCE = (0.3, 0.8, 0.03, 0.04, 0.025, 0.13, 0.04)
"""Of values from another implementation, whose initial weights are not known; most of it is needed by short runs."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "steps", "reference"),
    [
        (16, 150, (4.28, -2.15, 0.113, 0.366, 0.068, 0.24, 0.105)),
        (32, 400, (3.50, -3.58, 0.042, 0.278, 0.026, 0.63, 0.223)),
        (32, 1200, (3.28, -3.99, 0.031, 0.251, 0.009, 0.72, 0.241)),
    ],
)
def test_known_models(data, width, steps, reference):
    values = measured(data, steps, width)
    for name, value, tolerance in zip(MEASURED, reference, TOLERANCE, strict=True):
        assert values[name] == pytest.approx(value, abs=tolerance), name


def test_correlations():
    names = (
        "val_loss",
        "cdnv_log",
        "gnc2_var",
        "gnc2_cv",
        "equinorm",
        "nc3_cosine",
        "unc3_var",
        "nc4",
        "etf_error",
        "nc1",
    )
    rows = [dict.fromkeys(names, float(i)) | {"nc4": -float(i)} for i in range(4)]
    values = correlate(rows)
    assert values.pop("nc4") == pytest.approx(-1)
    assert list(values.values()) == pytest.approx([1] * len(values))
    assert correlate(rows[:2]) == {}


def test_the_output_folder(tmp_path, monkeypatch, capsys):
    words = text.python_text()[0][:60_000]
    monkeypatch.setattr(text, "python_text", lambda: (words, "a part"))
    run(Language([8], steps=[0, 2, 4], vocabulary=50, output=str(tmp_path / "out"), figure=False))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.csv", "correlations.csv", "summary.json"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["corpus"]["sha256"]) == 64
    assert set(summary["correlations"]) >= {"nc4", "cdnv_log"}
    assert "of 51 tokens" in capsys.readouterr().out


def test_an_experiment_that_was_stopped_goes_on_from_its_models(tmp_path, monkeypatch):
    words = text.python_text()[0][:60_000]
    monkeypatch.setattr(text, "python_text", lambda: (words, "a part"))
    settings = {"widths": [8], "steps": [0, 2, 4], "vocabulary": 50, "figure": False}
    expected = run(Language(**settings, output=str(tmp_path / "whole")))
    trained, train = [], language.train

    def stopping(settings, data, width, depth, steps, seed):
        if steps == 4 and len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(steps)
        return train(settings, data, width, depth, steps, seed)

    monkeypatch.setattr(language, "train", stopping)
    stopped = Language(**settings, output=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert trained == [0, 2]
    with pytest.raises(ConfigError, match="holds an unfinished one with other settings"):
        run(Language(**settings | {"vocabulary": 40}, output=str(tmp_path / "stopped")))
    trained.append("again")
    found = run(stopped)
    assert trained == [0, 2, "again", 4]
    assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in expected]
    assert not (tmp_path / "stopped" / "parts").exists()
    with pytest.raises(ConfigError, match="exists already"):
        run(stopped)


@pytest.mark.parametrize(
    ("match", "options"),
    {
        "widths=0 must be": {"widths": [0]},
        "depths=0": {"depths": [0]},
        "steps=-1": {"steps": [-1]},
        "is empty": {"steps": []},
        "vocabulary=1": {"vocabulary": 1},
        "context=1000 is more than a chunk": {"context": 1000},
        "lr=-1": {"lr": -1.0},
        "min_count=0": {"min_count": 0},
        "do not divide": {"widths": [50]},
    }.items(),
)
def test_bad_options(match, options):
    with pytest.raises(ConfigError, match=match):
        Language(**{**asdict(SETTINGS), **options})
