"""FedReLa by the properties that define it."""

import torch

from fedloge.methods import FedLoGe, FedReLa
from fedloge.methods.fedrela import relabel
from harness import build, initial, prepared, run_round, same, train


def random_examples(counts, n=200):
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    return torch.rand(len(labels), 3, generator=generator).softmax(1), labels, torch.tensor(counts).float()


def test_labels_change_towards_rarer_classes_only():
    probabilities, labels, counts = random_examples((120, 60, 20))
    new = relabel(probabilities, labels, counts, 0.5, torch.zeros_like(probabilities))
    changed = new != labels
    assert changed.any()
    assert (counts[new[changed]] < counts[labels[changed]]).all()


def test_equal_counts_change_no_label():
    probabilities, labels, counts = random_examples((50, 50, 50))
    assert torch.equal(relabel(probabilities, labels, counts, 0.5, torch.zeros_like(probabilities)), labels)


def test_a_flip_on_paper():
    """Four examples of class 0, one of class 1; z_1 of the four is (1.73, -0.58, -0.58, -0.58), of the last 0.

    With a fifth above, one z_1 is above τ_1, the second largest: τ_1 = 0. Rarity is 0 and 1, so the first example
    passes to class 1 with probability tanh(1.73) = 0.94.
    """
    p = torch.tensor([0.9, 0.1, 0.1, 0.1, 0.5])
    probabilities = torch.stack([1 - p, p], 1)
    labels, counts = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([4.0, 1.0])
    for draw, expected in ((0.93, [1, 0, 0, 0, 1]), (0.95, [0, 0, 0, 0, 1])):
        found = relabel(probabilities, labels, counts, 0.2, torch.full((5, 2), draw))
        assert found.tolist() == expected


def test_before_its_start_it_is_fedloge(data):
    expected, found = (train(prepared(m, data, gamma=1.0), data)[0].shared.tensors for m in (FedLoGe, FedReLa))
    assert same(expected, found)


def test_labels_are_kept_and_rates_fall(data):
    method = prepared(FedReLa, data, gamma=1.0, start=2, share=0.5, slower=0.5)
    state, _ = run_round(method, data, initial(method, 3))
    assert "note/labels" not in state.clients[0]
    method.begin_phase(method.phases(1)[0])
    assert {group["lr"] for group in method.configure_optimizers().param_groups} == {0.03}
    state, _ = run_round(method, data, state)
    kept = [own["note/labels"].clone() for own in state.clients]
    assert [len(labels) for labels in kept] == [sum(data.client_counts(k)) for k in range(3)]
    assert {group["lr"] for group in method.configure_optimizers().param_groups} == {0.015}
    originals = [torch.cat([labels for _, labels in data.client_batches(k)]) for k in range(3)]
    assert any(not torch.equal(one, other) for one, other in zip(kept, originals, strict=True))
    state, _ = run_round(method, data, state)
    assert all(torch.equal(own["note/labels"], labels) for own, labels in zip(state.clients, kept, strict=True))


def test_it_can_be_built_with_fedloges_options():
    assert build(FedReLa, beta=0.3, gamma=1.0).gamma == 1.0
