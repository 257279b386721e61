import math

import pytest
import torch

from fedloge import FedAvg
from fedloge.evaluation import Evaluator
from fedloge.methods.base import Client
from fedloge.models import SmallCNN


@pytest.mark.parametrize(
    ("options", "accuracy", "groups"),
    [
        ({}, 0.5, (0.0, 1.0, None)),
        ({"mask_absent": "train"}, 0.5, (0.0, 1.0, None)),
        ({"mask_absent": "test"}, 1.0, (1.0, 1.0, None)),
        ({"personal_shots": "own"}, 0.5, (0.5, None, None)),
    ],
)
def test_masks_and_groups_of_the_released_code(options, accuracy, groups):
    """A client has training images of three classes, and one test image of each of the classes 0 and 1.

    It takes the first for class 2, and is right once that class is masked. By the training counts class 0 is many-shot
    and class 1 medium-shot; by its own test counts both are many-shot.
    """

    class Data:
        class_counts = (80, 15, 5)
        test_labels = torch.tensor([0, 1])

        def test_batches(self, indices=None, device=None):
            yield torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), self.test_labels

        def client_test_indices(self, client):
            return torch.tensor([0, 1])

    class Scores(FedAvg):
        def features(self, images, view="global"):
            return images

        def logits(self, features, view):
            return features

    method = Scores(SmallCNN((6,), in_channels=1), 3)
    data, population = Data(), [Client(0, (8, 2, 1))]
    evaluator = Evaluator(method, data, population, **options)
    personal = evaluator.evaluate(method.initial_state(1, lambda k: torch.Generator())).personal()
    assert personal["acc_mean"] == accuracy
    found = [personal[f"acc_{group}"] for group in ("many", "medium", "few")]
    assert tuple(None if math.isnan(value) else value for value in found) == groups
