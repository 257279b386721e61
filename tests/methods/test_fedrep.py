"""FedRep by the properties that define it."""

import pytest

from fedloge.errors import ConfigError
from fedloge.methods import FedRep
from harness import build, finalize, initial, population, run_round, same, train


def test_fedrep_freezes_what_it_does_not_train(data):
    method = build(FedRep, head_epochs=2, body_epochs=0)
    start = initial(method, 3)
    state, _ = run_round(method, data, start)
    assert same(start.shared.tensors, state.shared.tensors)  # BatchNorm statistics included
    head = state.clients[0]
    assert not same(head, initial(method, 3).clients[0], ["head.weight"])
    both = build(FedRep, head_epochs=2, body_epochs=1)
    after, _ = run_round(both, data, initial(both, 3))
    assert same(head, after.clients[0])
    assert not same(start.shared.tensors, after.shared.tensors, ["backbone.stages.0.weight"])


def test_fedrep_trains_heads_once_more_if_asked(data):
    method = build(FedRep, head_epochs=1, body_epochs=1, final_head_epochs=2)
    state, _ = train(method, data)
    assert method.finalize(state, population(data)) is state
    final = finalize(method, data, state)
    assert final.shared.tensors is state.shared.tensors
    assert not same(final.clients[0], state.clients[0], ["head.weight"])


def test_fedrep_without_head_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"model\.head_epochs=0 must be at least 1"):
        build(FedRep, head_epochs=0)
