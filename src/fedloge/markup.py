"""The user's text in media that have markup: names of classes, runs, rows and files appear as they were given.

There is one function per medium. HTML needs none, since the templates escape everything.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

LONGEST = 40
"""Greatest number of characters of a name in a figure; its tables have the whole name."""

CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
"""Control characters, which a terminal would obey, and the characters that stand for them."""


def shortened(text: Any, longest: int = LONGEST) -> str:
    """The text with an ellipsis in place of its middle if it is longer than ``longest`` characters."""
    whole, end = str(text), (longest - 1) // 2
    return whole if len(whole) <= longest else f"{whole[: longest - 1 - end]}…{whole[-end:]}"


def rich_text(text: Any, style: str = "") -> Text:
    """Text for rich, which neither parses markup in it nor replaces names of emojis; a ``Text`` stays as it is."""
    from rich.text import Text

    return text if isinstance(text, Text) else Text(str(text).translate(CONTROLS), style)


def markdown_text(text: Any) -> str:
    r"""Text for a cell, a heading or a paragraph of Markdown, in which a line break becomes ``<br>``.

    ``<``, ``&``, ``$`` and ``~`` become entities, since not every dialect knows their backslash. An underscore within
    a word has no meaning and stays.
    """
    text = html.escape(str(text), quote=False).replace("&gt;", ">")
    text = re.sub(r"[\\`*|]|\[(?=[^\]]*\])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    text = text.replace("$", "&#36;").replace("~", "&#126;")
    text = re.sub(r"^(\s*)(#|>|[-+=](?=\s)|\d+(?=[.)]\s))", _block_mark, text)
    return re.sub(r"\r\n?|\n", "<br>", text)


def _block_mark(match: re.Match[str]) -> str:
    """A mark that would begin a heading, a quotation or a list, made harmless."""
    space, mark = match.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"


def matplotlib_text(text: Any) -> str:
    """Text for matplotlib, shortened, in which dollar signs begin no formula; a legend does not skip it for a ``_``."""
    literal = shortened(text).replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{literal}" if literal.startswith("_") else literal


def plotly_text(text: Any) -> str:
    """Text for plotly, whose labels are a small HTML; not shortened, since categories must stay distinct."""
    return html.escape(str(text), quote=False).replace("\n", "<br>")
