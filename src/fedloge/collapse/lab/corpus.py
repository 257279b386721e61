"""Text that comes with Python, as tokens: a corpus that needs no download."""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

TOKEN = re.compile(r"[a-z_]+|\d|[^\sa-z_\d]|\n")
"""A word, a digit, another sign, or a line break, of lower-cased text."""

UNKNOWN = "<unk>"

CHUNK = 512
"""Tokens of a chunk; every tenth chunk is held out."""


@dataclass(frozen=True)
class Corpus:
    """Chunks of tokens.

    Args:
        train: int64 [chunks, 512].
        heldout: int64 [chunks, 512], every tenth chunk.
        vocabulary: The tokens by number; what is not among them is the first, ``<unk>``.
        source: Origin of the text.
        sha256: Hash of the text, which differs between versions of Python.
    """

    train: Tensor
    heldout: Tensor
    vocabulary: tuple[str, ...]
    source: str
    sha256: str


def python_text() -> tuple[str, str]:
    """The help texts of ``pydoc`` (465 kB), or the docstrings of the standard library where Python lacks them.

    Returns:
        Text and source.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return docstrings(Path(sysconfig.get_path("stdlib"))), "docstrings of the standard library"
    return "\n".join(topics[name] for name in sorted(topics)), "pydoc_data.topics"


def docstrings(folder: Path) -> str:
    """All docstrings of the modules directly in a folder, in alphabetical order."""
    found = []
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found.append(text)
    return "\n".join(found)


def corpus(vocabulary_size: int, text: str | None = None) -> Corpus:
    """Tokens of a text in chunks; the vocabulary holds its most frequent ones.

    Args:
        vocabulary_size: V; with ``<unk>`` there are V + 1 classes.
        text: None takes :func:`python_text`.
    """
    text, source = python_text() if text is None else (text, "given")
    words = TOKEN.findall(text.lower())
    chunks = [words[start : start + CHUNK] for start in range(0, len(words) - CHUNK + 1, CHUNK)]
    train, heldout = split(chunks)
    counts = Counter(words)
    vocabulary = (UNKNOWN, *(word for word, _ in counts.most_common(vocabulary_size)))
    number = {word: i for i, word in enumerate(vocabulary)}

    def encode(part: list[list[str]]) -> Tensor:
        return torch.tensor([[number.get(word, 0) for word in chunk] for chunk in part])

    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(encode(train), encode(heldout), vocabulary, source, digest)


def split(chunks: Sequence[T]) -> tuple[list[T], list[T]]:
    """Training chunks and the held-out ones, every tenth."""
    return [chunk for i, chunk in enumerate(chunks) if i % 10 != 9], list(chunks[9::10])
