"""The commands and examples of the documentation: the fenced blocks of README.md, CONTRIBUTING.md and docs/."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"": "shell", "python": "python", "yaml": "yaml", "text": "text"}
"""The allowed languages of a fence. Without a language it holds commands; output, trees and formulas are ``text``."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONAL = re.compile(r"\[(--.*?)\](?=\s|$)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins on, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self):
        """The name of the file to save the block as, from a comment in its first line."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return named[1] if named else None


def blocks(path):
    """The fenced blocks of a page."""
    text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    return [Block(page, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in FENCE.finditer(text)]


def commands(text):
    """The commands of a shell block, each a list of words.

    Comments and ``...`` are left out, options in ``[--brackets]`` are included, and ``a && b`` are two commands.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        command = []
        for word in [*shlex.split(OPTIONAL.sub(r"\1", line), comments=True), "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                found.append([word for word in command if word != "..."])
                command = []
    return found


def inline_commands(path):
    """The commands within sentences, each a list of words."""
    found = re.findall(r"(?<!`)`((?:fedloge|pip install|python -m) [^`]+)`(?!`)", path.read_text(encoding="utf-8"))
    return [shlex.split(command) for command in found]
