"""FedPer by the properties that define it."""

from fedloge.methods import FedAvg, FedPer
from harness import build, initial, run_round, same, train


def test_all_heads_start_the_same_whenever_a_client_first_takes_part(data):
    method = build(FedPer)
    state = initial(method, 3)
    expected = {name: tensor.clone() for name, tensor in state.clients[1].items()}
    run_round(method, data, state, cohort=[0, 2])
    assert same(expected, state.clients[1])


def test_one_client_of_fedper_is_fedavg(make_data):
    data = make_data(num_clients=1)
    data.setup()
    (per, _), (avg, _) = (train(build(method), data) for method in (FedPer, FedAvg))
    assert same({**per.shared.tensors, **per.clients[0]}, avg.shared.tensors)
