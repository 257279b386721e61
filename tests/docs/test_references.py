"""The files and tests that the documentation names exist."""

import re

import pytest

from documented import PAGES, ROOT

FILE = re.compile(
    r"(?<![\w/.*-])(?:src|tests|benchmarks|configs|notebooks|docs)/[\w./-]*\w\.(?:py|yaml|md|ipynb|txt|toml)"
)
TESTS = {name for path in ROOT.glob("tests/**/test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@pages
def test_files_that_a_page_names_exist(path):
    named = FILE.findall(path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pages
def test_tests_that_a_page_names_exist(path):
    named = re.findall(r"[`:](test_\w+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if name not in TESTS] == []


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") < 200
    assert len(text.split()) < 1300


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).is_file()] == []
