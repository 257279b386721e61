import pytest
import torch

from fedloge.models import FixedLinear
from fedloge.models.heads import random_head


def test_a_fixed_head_has_no_parameters():
    assert list(FixedLinear(4, 3, bias=True).parameters()) == []


@pytest.mark.parametrize(("kind", "std"), [("gaussian", 0.5), ("kaiming", 100**-0.5 / 3**0.5)])
def test_random_heads_have_the_scale_of_the_released_code(kind, std):
    """Gaussian heads are N(0, 0.5²); Kaiming uniform ones with a = √5 are U(±1/√d), whose deviation is 1/√(3d)."""
    weight = random_head(200, 100, kind, torch.Generator().manual_seed(0))
    assert weight.std().item() == pytest.approx(std, rel=0.02)
