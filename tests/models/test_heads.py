from fedloge.models import FixedLinear


def test_a_fixed_head_has_no_parameters():
    assert list(FixedLinear(4, 3, bias=True).parameters()) == []
