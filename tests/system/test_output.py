"""Output that cannot be written ends nothing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedloge.cli import VERBS, main
from fedloge.experiments.live import CellProgress
from fedloge.experiments.runner import Cell
from fedloge.system.output import Lenient, lenient_output
from fedloge.tables import print_table


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def test_a_reader_that_goes_away_is_quiet():
    reader, writer = os.pipe()
    stream = Lenient(os.fdopen(writer, "w", encoding="utf-8"))
    stream.write("read")
    stream.flush()
    os.close(reader)
    for _ in range(3):
        assert stream.write("dropped") == 7
        stream.flush()
    stream.writelines(["dropped", "too"])
    stream.close()


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"? ?"), ("latin-1", b"? \xe9"), ("cp1252", b"? \xe9")])
def test_letters_that_an_encoding_lacks_are_replaced(encoding, expected):
    content = io.BytesIO()
    stream = Lenient(io.TextIOWrapper(content, encoding=encoding))
    stream.write("γ é")
    stream.flush()
    assert content.getvalue() == expected


def test_streams_that_are_closed_or_absent():
    closed = io.StringIO()
    closed.close()
    for stream in (Lenient(None), Lenient(closed), Lenient(Broken())):
        stream.write("nobody reads this")
        stream.flush()
    assert not Lenient(None).isatty()


def test_another_error_is_not_hidden():
    with pytest.raises(TypeError):
        Lenient(io.StringIO()).write(7)


def test_the_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with lenient_output():
        assert isinstance(sys.stdout, Lenient)
    assert (sys.stdout, sys.stderr) == before


def test_training_goes_on_when_nobody_reads(tmp_path, monkeypatch):
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    options = ["rounds=2", "local_epochs=1", "accelerator=cpu", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", Broken())
    command = ["fit", "--config", str(config), *(f"--trainer.{option}" for option in options), "--report=false"]
    assert main(command) == 0
    assert (tmp_path / "run" / "summary.json").is_file()


def test_tables_and_progress_are_printed_in_ascii(tmp_path, monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    cell = Cell("γ", 0, {}, tmp_path, error="ρ is missing")
    with lenient_output():
        print_table("ρ", [{"γ": 1.0}])
        with CellProgress() as progress:
            progress.update([cell])
    assert b"?, seed 0: failed" in content.getvalue()


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"collapse"}))
def test_every_verb_prints_its_help_to_nobody(verb, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", Broken())
    try:
        code = main([verb, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert not code


def test_errors_are_reported_by_the_code_alone_where_nobody_listens(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    assert main(["no-verb"]) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["no-verb"]) == 2


def test_a_closed_pipe_leaves_no_word_at_the_end_of_the_process():
    code = "import sys; from fedloge.cli import main; sys.stdin.read(); sys.exit(main(['--version']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    _, error = process.communicate(b"", timeout=60)
    assert (process.returncode, error) == (0, b"")
