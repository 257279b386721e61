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
