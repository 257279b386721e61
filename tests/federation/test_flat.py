import torch

from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import num_bytes

TENSORS = {
    "weight": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "count": torch.tensor(7),
    "bias": torch.tensor([5.0]),
    "flag": torch.tensor(True),
}


def test_flat_tensors_are_copies_in_order():
    flat = FlatTensors.of(TENSORS)
    assert list(flat) == list(TENSORS)
    assert all(torch.equal(flat[name], tensor) and flat[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert flat["weight"].untyped_storage().data_ptr() != TENSORS["weight"].untyped_storage().data_ptr()


def test_a_buffer_per_type_holds_them_without_gaps():
    flat = FlatTensors.of(TENSORS)
    assert flat.buffers["torch.float32"].tolist() == [*map(float, range(24)), 5.0]
    assert num_bytes(flat) == num_bytes(TENSORS) == 4 * 25 + 8 + 1


def test_views_change_with_their_buffers():
    flat = FlatTensors.of(TENSORS)
    flat.views()["bias"].fill_(9.0)
    assert float(flat.buffers["torch.float32"][-1]) == 9.0
    assert float(flat.with_buffers({**flat.buffers, "torch.float32": torch.zeros(25)})["bias"]) == 0.0
