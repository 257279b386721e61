"""What the site does to pages and docstrings before they are rendered."""

import importlib.util

import pytest

from documented import ROOT


@pytest.fixture(scope="module")
def include():
    spec = importlib.util.spec_from_file_location("include", ROOT / "docs" / "hooks" / "include.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a page](docs/comparison.md)", "[a page](../comparison.md)"),
        ("[how](docs/guides/data.md)", "[how](data.md)"),
        ("![a picture](docs/figures/report.png)", "![a picture](../figures/report.png)"),
        ("[CONTRIBUTING.md](CONTRIBUTING.md)", "[CONTRIBUTING.md](extending.md)"),
        ("[`configs/x.yaml`](configs/x.yaml)", "`configs/x.yaml`"),
        ("[elsewhere](https://example.org/docs/x.md)", "[elsewhere](https://example.org/docs/x.md)"),
    ],
)
def test_links_of_the_top_become_links_of_the_page(written, shown, include):
    assert include.relocated(written, "guides") == shown


def test_a_section_ends_at_the_next_heading(include):
    """Of whatever level; a comment in an example is no heading."""
    text = include.section("CONTRIBUTING.md", "A method")
    assert "# my_method.py" in text
    assert "A dataset" not in text
    assert "### " not in include.section("README.md", "What it does")


def test_a_section_that_is_not_there_is_named(include):
    with pytest.raises(ValueError, match=r"README.md has no heading 'Coffee'"):
        include.section("README.md", "Coffee")
