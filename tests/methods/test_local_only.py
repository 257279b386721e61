"""Training without a federation by the properties that define it."""

from fedloge.methods import LocalOnly
from harness import build, initial, run_round, same


def test_no_client_depends_on_another(data):
    ends = []
    for cohort in ([0, 1, 2], [1]):
        method = build(LocalOnly)
        state = initial(method, 3)
        for _ in range(2):
            state, results = run_round(method, data, state, cohort=cohort)
        assert all(result.update.tensors == {} for result in results)
        assert method.views == ("personal",)
        ends.append(state.clients[1])
    assert same(*ends)
