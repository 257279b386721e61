"""Five sites of different size and class mix, drawn from the handwritten digits: images, and the table ``sites.csv``.

python examples/sites/make_sites.py data/sites
fedloge fit --config examples/sites/sites.yaml --data.source.table=data/sites/sites.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SITES = {"Charité": 600, "Wien": 400, "Oslo": 250, "Porto": 150, "Brno": 90}
"""Number of images of each site."""

ALPHA = 1.0
"""Concentration of the classes: the smaller, the more the sites differ in their class mix."""


def make_sites(folder: str | Path, seed: int = 0) -> Path:
    """Write the images and the table; returns the path of the table."""
    folder, rng = Path(folder), np.random.default_rng(seed)
    digits = load_digits()
    free = {c: list(rng.permutation(np.flatnonzero(digits.target == c))) for c in range(10)}
    rows = []
    for site, size in SITES.items():
        (folder / site).mkdir(parents=True, exist_ok=True)
        mix = rng.dirichlet(np.full(10, ALPHA))
        for _ in range(size):
            left = mix * [bool(free[c]) for c in range(10)]
            label = int(rng.choice(10, p=left / left.sum()))
            index = free[label].pop()
            path = f"{site}/{index}.png"
            Image.fromarray(np.uint8(digits.images[index] * 255 / 16)).save(folder / path)
            rows.append([path, label, site])
    table = folder / "sites.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "site"], *rows])
    return table


if __name__ == "__main__":
    print(make_sites(*sys.argv[1:2]))
