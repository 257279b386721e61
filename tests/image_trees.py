"""Small trees of images in the layouts of ImageNet-LT and iNaturalist-User-120k."""

import numpy as np
from PIL import Image

COUNTS = (24, 12, 6, 3, 3)
"""Training images by class."""


def write_image(path, seed, size=(14, 11)):
    """An image of coarse random squares, which survives JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(path, quality=95)


def imagenet_lt(root, counts=COUNTS, per_test=4):
    """``train/<wnid>/<wnid>_<number>.JPEG``, ``val/ILSVRC2012_val_<number>.JPEG`` and the lists ``path label``."""
    lines = {"train": [], "test": []}
    for c, count in enumerate(counts):
        wnid = f"n{1440764 + 17 * c:08d}"
        lines["train"] += [f"train/{wnid}/{wnid}_{7 * i + 1}.JPEG {c}" for i in range(count)]
        lines["test"] += [f"val/ILSVRC2012_val_{per_test * c + i + 1:08d}.JPEG {c}" for i in range(per_test)]
    for part, own in lines.items():
        for seed, line in enumerate(own):
            write_image(root / line.split()[0], seed)
        (root / f"ImageNet_LT_{part}.txt").write_text("\n".join(own) + "\n")
    (root / "ImageNet_LT_val.txt").write_text(lines["train"][0] + "\n")
    return root


def inaturalist(root, counts=COUNTS, per_test=4, users=7):
    """``train_val_images/<kingdom>/<species>/<image_id>.jpg`` and two tables; a user has every ``users``-th image."""
    train, test = ["user_id,image_id,class,label"], ["image_id,class,label"]
    number = 0
    for c, count in enumerate(counts):
        for i in range(count + per_test):
            image = f"{number * 2654435761 % 2**32:08x}"
            write_image(root / "train_val_images" / "Plantae" / f"Abies species{c}" / f"{image}.jpg", number)
            own = f"{image},{c},{5000 + c}"
            if i < count:
                train.append(f"{len(train) % users + 100},{own}")
            else:
                test.append(own)
            number += 1
    (root / "federated_train_user_120k.csv").write_text("\n".join(train) + "\n")
    (root / "test.csv").write_text("\n".join(test) + "\n")
    return root


def coloured(root, classes=("ant", "bee", "cat"), train=12, test=4, size=12):
    """``train/<class>/*.png`` and ``test/<class>/*.png`` of up to three classes: noise that is red, green or blue."""
    for c, name in enumerate(classes):
        for part, count in (("train", train), ("test", test)):
            for i in range(count):
                paint_class(root / part / name / f"{i}.png", c, i + 50 * (part == "test"), size)
    return root


def paint_class(path, c, seed, size=12):
    """An image of a class of :func:`coloured`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(100 * c + seed).integers(0, 60, (size, size, 3), dtype=np.uint8)
    pixels[..., c] += 180
    Image.fromarray(pixels).save(path)


SITES = {"Wien": (6, 2), "Charité": (2, 6), "Oslo": (4, 0)}
"""Training images of two classes by site; Oslo has no image of the second one."""


def site_table(root, split=True, tests=(2, 2), public=0, sites=SITES, group_size=0):
    """``images/<number>.png`` and ``sites.csv``; Oslo has no test images. Images of the second class are brighter."""
    rows = []
    for site, counts in sites.items():
        tested = (0, 0) if site == "Oslo" else tests
        rows += [(site, "train", c) for c in (0, 1) for _ in range(counts[c])]
        rows += [(site, "test", c) for c in (0, 1) for _ in range(tested[c])]
    rows += [("", "test", i % 2) for i in range(public)]
    lines = ["path,label,site" + (",split" if split else "") + (",group" if group_size else "")]
    (root / "images").mkdir(parents=True)
    for number, (site, part, c) in enumerate(rows):
        pixels = np.random.default_rng(number).integers(0, 100, (8, 8, 3), dtype=np.uint8) + np.uint8(120 * c)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        cells = [f"images/{number}.png", ("benign", "malignant")[c], site]
        cells += ([part] if split else []) + ([f"p{number // group_size}"] if group_size else [])
        lines.append(",".join(cells))
    (root / "sites.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "sites.csv"
