"""iNaturalist with its users, through the published lists."""

from __future__ import annotations

from typing import Any

from fedloge.data.sources.lists import ImageLists


class INaturalist(ImageLists):
    """iNaturalist-User-120k: images of iNaturalist 2017 by user (Hsu et al., ECCV 2020).

    As published, 120,300 training images of 1,203 classes by 9,275 users, and 35,641 test images. The FedLoGe paper
    writes "iNaturalist-User-160k", 160k examples of 1023 classes; we know of no such list, and this one, with 155,941
    images in total, is the closest. It is long-tailed by nature: set ``imbalance_factor: null``. The paper splits it by
    Dirichlet; ``scheme: natural`` makes its users the clients, or deals them to fewer clients.

    Args:
        root: Folder that holds the images, ``<image_id>.jpg``, at any depth.
        train_list: List of the training images, a file in ``lists``: columns ``user_id``, ``image_id``, ``class``,
            or lines ``path label user``.
        test_list: List of the test images, a file in ``lists``, without users.
        num_classes: C; the lists must agree with it.
        options: Options of :class:`ImageLists`.
    """

    title = "iNaturalist-User-120k"
    remedy = (
        "Download train_val_images.tar.gz of iNaturalist 2017 (github.com/visipedia/inat_comp) and unpack it below "
        "data.source.root. Put federated_train_user_120k.csv and test.csv of inaturalist-user-120k.zip, published with "
        "Google Research's federated_vision_datasets, there too, or set data.source.lists to their folder."
    )

    def __init__(
        self,
        root: str,
        train_list: str = "federated_train_user_120k.csv",
        test_list: str = "test.csv",
        num_classes: int = 1203,
        **options: Any,
    ) -> None:
        super().__init__(root, train_list, test_list, num_classes, **options)
