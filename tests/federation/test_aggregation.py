import pytest
import torch

from fedloge.federation.aggregation import weighted_mean
from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import ClientUpdate


def update(client, num_examples, **tensors):
    return ClientUpdate(client, tensors, num_examples, (num_examples,))


def test_weighted_by_examples():
    """Two clients with one weight each, 1 and 5, and 3 and 1 examples: (3·1 + 1·5) / 4 = 2."""
    mean = weighted_mean([update(0, 3, w=torch.tensor([1.0])), update(1, 1, w=torch.tensor([5.0]))])
    assert mean["w"].item() == 2.0
    uniform = weighted_mean([update(0, 3, w=torch.tensor([1.0])), update(1, 1, w=torch.tensor([5.0]))], uniform=True)
    assert uniform["w"].item() == 3.0


def test_equal_updates_come_back_to_the_bit():
    state = {"w": torch.randn(100), "h": torch.randn(10).double(), "num_batches_tracked": torch.tensor(7)}
    mean = weighted_mean(update(k, k + 1, **state) for k in range(13))
    for name, tensor in state.items():
        assert mean[name].dtype == tensor.dtype
        assert torch.equal(mean[name], tensor)


def test_counters_take_the_maximum_and_stay_integers():
    mean = weighted_mean([update(k, 1, n=torch.tensor(n)) for k, n in enumerate((4, 9, 2))])
    assert mean["n"].dtype == torch.int64
    assert mean["n"].item() == 9


def test_order_of_clients_hardly_matters():
    updates = [update(k, 5 + k, w=torch.randn(1000)) for k in range(20)]
    torch.testing.assert_close(weighted_mean(updates)["w"], weighted_mean(reversed(updates))["w"], atol=1e-6, rtol=0)


def test_updates_are_left_as_they_were():
    first = torch.tensor([1.0])
    weighted_mean([update(0, 1, w=first), update(1, 1, w=torch.tensor([5.0]))])
    assert first.item() == 1.0


def test_nothing_to_average_is_an_error():
    with pytest.raises(ValueError, match="nothing to average"):
        weighted_mean([])


def test_flat_updates_give_the_same_bits_in_one_operation_per_type():
    generator = torch.Generator().manual_seed(0)

    def tensors():
        sizes = {"weight": (3, 5, 3, 3), "bias": (7,), "head": (11, 13)}
        floats = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
        return {**floats, "count": torch.randint(9, (), generator=generator)}

    clients = [tensors() for _ in range(4)]
    plain = weighted_mean(update(k, k + 3, **own) for k, own in enumerate(clients))
    flat = weighted_mean(ClientUpdate(k, FlatTensors.of(own), k + 3, ()) for k, own in enumerate(clients))
    assert isinstance(flat, FlatTensors)
    assert list(flat) == list(plain)
    assert all(torch.equal(flat[name], tensor) for name, tensor in plain.items())
    assert len(flat.buffers) == 2
