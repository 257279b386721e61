import ast
import math
import os
from pathlib import Path

import pytest

from fedloge.system.storage import whole, without_nan, write_whole

SOURCE = Path(__file__).parents[2] / "src" / "fedloge"


def test_numbers_that_are_not_finite_become_null_at_every_depth():
    content = {"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, 2)}], "d": "nan", "e": True}
    assert without_nan(content) == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "nan", "e": True}


@pytest.mark.parametrize("content", ["γ\r\n", b"\0\xff"])
def test_a_file_is_written_as_it_is(tmp_path, content):
    write_whole(tmp_path / "file", "older and longer")
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("older", [True, False])
def test_what_is_not_finished_leaves_nothing(tmp_path, error, older):
    if older:
        (tmp_path / "file").write_text("older")

    def write():
        with whole(tmp_path / "file") as path:
            path.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == (["older"] if older else [])


def test_a_link_is_followed_and_a_pipe_written_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "text"
    write_whole("/dev/null", "text")
    assert not Path("/dev/null").is_file()


WRITERS = {"write_text", "write_bytes", "savefig", "write_html", "savez", "to_csv"}
"""Methods that write a file piece by piece."""

ALLOWED = {
    ("system/storage.py", "write_bytes"),  # the writer itself
    ("data/cache.py", "write_bytes"),  # renamed there, without the cost of a sync for each image
    ("plotting.py", "savefig"),  # into memory
    ("data/features.py", "savez"),  # inside the writer
    ("data/features.py", "open"),
    ("config.py", "write_text"),  # of a RunFolder
    ("runs/folder.py", "write_text"),
}


def test_no_file_is_written_past_the_writer():
    """Calls of methods that write files, and of ``open`` for writing, other than to append or into a checkpoint."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                mode = next((arg.value for arg in node.args if isinstance(arg, ast.Constant)), "")
                if node.func.attr in WRITERS:
                    found.add((name, node.func.attr))
                elif node.func.attr == "open" and str(mode).startswith("w"):
                    found.add((name, "open"))
    logs_and_checkpoints = {("experiments/runner.py", "open"), ("system/storage.py", "open")}
    assert found - ALLOWED <= logs_and_checkpoints
