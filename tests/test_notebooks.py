"""The notebooks run, and their committed outputs are those of a fresh run."""

import re

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from notebooks.execute import FOLDER, execute, rounding  # noqa: E402

PATHS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = re.compile(r"\d+(?:\.\d+)? (?:s|min|h)\b")
DECIMAL = re.compile(r"-?\d+\.\d+")
POINTS = 25
"""Allowed difference of decimals where training rounds differently: one image of a client weighs 5 to 20 percent."""

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell):
    """The printed output of a cell, without times."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return SECONDS.sub("TIME", "\n".join(part for part in parts if not part.startswith("<Figure")))


def words(text):
    """The words, whole numbers and hashes of a text, with # for every decimal."""
    return re.sub("[━─]+", "─", DECIMAL.sub("#", text)).split()


def decimals(text):
    return [float(number) for number in DECIMAL.findall(text)]


def check_clean(notebook):
    """Check that the notebook was executed once from the top, without errors or output on standard error."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


def test_there_are_four():
    assert [path.stem[:2] for path in PATHS] == ["01", "02", "03", "04"]


@notebooks
def test_committed_outputs(path):
    notebook = read(path)
    check_clean(notebook)
    assert sum(bool(cell.outputs) for cell in code_cells(notebook)) > len(code_cells(notebook)) / 2
    assert path.stat().st_size < 400_000
    content = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:tmp|home|root|work|Users)/|\d{4}-\d\d-\d\d|\\u001b\[\?25", content)
    assert all("execution" not in cell.metadata for cell in notebook.cells)


@notebooks
def test_links_lead_somewhere(path):
    sources = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", sources)
    assert [target for target in targets if not (FOLDER / target).is_file()] == []


@pytest.mark.slow
@notebooks
def test_fresh_outputs_are_the_committed_ones(path):
    """Outputs agree to the last digit on machines that round like the one that made them, else up to decimals."""
    committed, fresh = read(path), execute(path)
    check_clean(fresh)
    alike = committed.metadata["rounding"] == rounding()
    for before, after in zip(code_cells(committed), code_cells(fresh), strict=True):
        old, new = text(before), text(after)
        assert words(new) == words(old)
        assert decimals(new) == (decimals(old) if alike else pytest.approx(decimals(old), abs=POINTS))
