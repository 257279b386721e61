"""The order in which tasks are handed to workers."""

from fedloge.executors import ClientTask
from fedloge.executors.base import ClientResult, largest_first
from fedloge.federation.state import ClientUpdate


def schedule(sizes, workers, window):
    """Run tasks that take their size in time on some workers; returns the order of starts and the most that waited."""
    clock, starts, free, running, most = 0.0, [], list(range(workers)), {}, 0
    done = set()

    def submit(worker, position):
        free.remove(worker)
        starts.append(position)
        running[position] = (clock + sizes[position], worker)

    def collect():
        nonlocal clock
        position = min(running, key=lambda p: running[p])
        clock, worker = running.pop(position)
        free.append(worker)
        done.add(position)
        return position, ClientResult(ClientUpdate(position, {}, 1, ()), {})

    tasks = [ClientTask(k, 1, ()) for k in range(len(sizes))]
    order = []
    for result in largest_first(tasks, sizes, window, lambda: free[0] if free else None, submit, collect):
        order.append(result.update.client)
        most = max(most, len(done) - len(order))
    return starts, order, most, clock


def test_the_largest_goes_first_and_results_come_in_order():
    starts, order, _, clock = schedule([1, 5, 2, 8, 3], workers=2, window=100)
    assert starts == [3, 1, 4, 2, 0]
    assert order == [0, 1, 2, 3, 4]
    assert clock == 10  # 8 + 2 beside 5 + 3 + 1


def test_a_window_bounds_what_waits():
    sizes = [(7 * k) % 13 + 1 for k in range(200)]
    starts, order, most, _ = schedule(sizes, workers=4, window=8)
    assert order == list(range(200))
    assert sorted(starts) == order
    assert most < 8
