"""MkDocs hook: a page takes a section of README.md or CONTRIBUTING.md by ``<!-- include: README.md, Data -->``.

The section is what stands between its heading and the next one, of whatever level. Its links are those of the
repository's top: to docs/ they become links of the site, to pages of :data:`PAGES` likewise, others only text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "guides/extending.md"}
DIRECTIVE = re.compile(r"^<!-- include: (\S+), (.+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(docs/([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Put the sections in."""
    folder = posixpath.dirname(page.file.src_uri)
    return DIRECTIVE.sub(lambda match: relocated(section(match[1], match[2]), folder), markdown)


def section(file: str, heading: str) -> str:
    """What stands under a heading of a file at the top of the repository.

    Raises:
        ValueError: If there is no such heading.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"{file} has no heading {heading!r}")
    return found[1].strip()


def relocated(text: str, folder: str) -> str:
    """The text of a file at the top with the links it needs on a page in ``folder`` of docs/."""

    def link(match: re.Match[str]) -> str:
        target = PAGES.get(match[2], match[2].removeprefix("docs/") if match[2].startswith("docs/") else None)
        return match[1] if target is None else f"[{match[1]}]({posixpath.relpath(target, folder or '.')})"

    text = IMAGE.sub(lambda match: f"![{match[1]}]({posixpath.relpath(match[2], folder or '.')})", text)
    return LINK.sub(link, text)
