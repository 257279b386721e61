"""ImageNet-LT through its published lists."""

from __future__ import annotations

from typing import Any

from fedloge.data.sources.lists import ImageLists


class ImageNetLT(ImageLists):
    """ImageNet-LT (Liu et al., CVPR 2019): 115,846 training images of 1,000 classes, 5 to 1,280 each; 50 for testing.

    It is long-tailed by nature: set ``imbalance_factor: null``. The test images are ImageNet's validation images; the
    list ``ImageNet_LT_val.txt`` is not used, since no model is selected on it.

    Args:
        root: Folder that holds ImageNet's ``train/<wnid>/*.JPEG`` and ``val/*.JPEG`` (or ``val/<wnid>/*.JPEG``).
        train_list: List of the training images, a file in ``lists``.
        test_list: List of the test images, a file in ``lists``.
        num_classes: C; the lists must agree with it.
        options: Options of :class:`ImageLists`.
    """

    title = "ImageNet-LT"
    remedy = (
        "Register at image-net.org, download ILSVRC2012 and unpack it to train/<wnid>/*.JPEG and val/*.JPEG below "
        "data.source.root. Put ImageNet_LT_train.txt and ImageNet_LT_test.txt, published with Liu et al. (CVPR 2019, "
        "Open Long-Tailed Recognition), there too, or set data.source.lists to their folder."
    )

    def __init__(
        self,
        root: str,
        train_list: str = "ImageNet_LT_train.txt",
        test_list: str = "ImageNet_LT_test.txt",
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, test_list, num_classes, **options)
