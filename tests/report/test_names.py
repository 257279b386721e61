"""Awkward names of classes, data sets and runs, from the command line to every output."""

import contextlib
import csv
import io
import json

import pytest
from markdown_it import MarkdownIt

from fedloge.cli import main
from fedloge.report.write import write_report
from image_trees import write_image
from names import AWKWARD

FOLDERS = {key: name.replace("/", "∕")[:79] for key, name in AWKWARD.items()}
"""The names without the one letter that no file name has."""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """A run whose classes, data set and folder have awkward names: its folder, and what each command printed."""
    base = tmp_path_factory.mktemp("names")
    root, run = base / FOLDERS["markup"], base / FOLDERS["tags"]
    for c, name in enumerate(FOLDERS.values()):
        for part, count in (("train", 8), ("test", 3)):
            for i in range(count):
                write_image(root / part / name / f"{i}.png", 20 * c + i, size=(8, 8))
    source = ["--data.source=ImageFolder", f"--data.source.init_args.root={root}", "--data.source.image_size=8"]
    data = [*source, "--data.num_clients=2", "--data.imbalance_factor=2", "--data.batch_size=16"]
    model = ["--model=FedLoGe", "--model.backbone=SmallCNN", "--model.backbone.channels=[16]", "--model.gamma=1"]
    fit = ["--trainer.rounds=1", "--trainer.local_epochs=1", "--trainer.executor=serial", f"--trainer.run_dir={run}"]
    verbs = {
        "fit": [*data, *model, *fit],
        "partition": [*data, *model, f"--output={base / 'split.png'}"],
        "predict": [str(run), str(root / "test" / FOLDERS["hidden"] / "0.png")],
        "analyze": [str(run), f"--output={base / 'analysis'}", f"--class={FOLDERS['markup']}"],
        "report": [str(run), f"--output={base / 'report.png'}"],
    }
    texts = {}
    for verb, options in verbs.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            assert main([verb, *options]) == 0, verb
        texts[verb] = text.getvalue()
    return run, texts


def test_the_terminal_shows_data_set_and_folder(printed):
    run, texts = printed
    assert f"FedLoGe on {FOLDERS['markup']}: 2 clients" in texts["fit"].replace("\n", " ")
    assert f"everything is in {run}" in texts["fit"]
    assert f"report: {run / 'report.html'}" in texts["fit"]
    assert run.name in texts["analyze"]


def test_the_preview_shows_classes(printed):
    _, texts = printed
    assert "largest class" in texts["partition"]
    assert any(name.splitlines()[0][:10] in texts["partition"] for name in FOLDERS.values())


def test_files_hold_names_as_they_are(printed):
    run, _ = printed
    names = sorted(FOLDERS.values())
    with (run / "per_class.csv").open(newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)][: len(names)] == names
    assert json.loads((run / "summary.json").read_text("utf-8"))["dataset"] == FOLDERS["markup"]
    assert [row[6] for row in csv.reader(io.StringIO(write_report([run], format="csv").read_text("utf-8")))].count(
        f"class {FOLDERS['tags']}"
    ) == 4


def test_markdown_holds_names_as_they_are(printed):
    run, _ = printed
    for source in (write_report([run], format="md"), run.parent / "analysis" / "analysis.md"):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source.read_text("utf-8"))
        assert run.name in _plain(tokens[1])
    cells = [_plain(token) for token in MarkdownIt("commonmark").enable("table").parse((run / "report.md").read_text())]
    assert set(FOLDERS.values()) <= set(cells)


def _plain(token):
    """The text of an inline token: every other kind of child would be markup."""
    parts = [child.content if child.type == "text" else "\n" for child in token.children or ()]
    assert {child.type for child in token.children or ()} <= {
        "text",
        "text_special",
        "html_inline",
        "strong_open",
        "strong_close",
    }
    return "".join(parts)


def test_the_page_shows_names_as_they_are(printed, browser, tmp_path):
    run, _ = printed
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"file://{write_report([run], tmp_path / 'report.html')}")
    page.wait_for_function("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))")
    assert said == []
    assert page.text_content("h1") == f"FedLoGe on {FOLDERS['markup']}"
    ticks = page.eval_on_selector_all("#classes-global-0 .xtick text", "all => all.map((one) => one.textContent)")
    short = {name.replace("\n", "") for name in FOLDERS.values() if len(name) <= 40}
    assert short <= set(ticks), ticks
    assert max(map(len, ticks)) <= 40
    assert page.locator("#classes-global-0 .xtick b").count() == 0
    page.close()
