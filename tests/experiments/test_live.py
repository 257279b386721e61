import io

from rich.console import Console

from fedloge.experiments.live import CellProgress, live_table
from fedloge.experiments.runner import Cell


def test_the_live_view_of_uneven_seeds(tmp_path):
    cells = [Cell("gamma=1", 0, {}, tmp_path / "a"), Cell("gamma=2", 1, {}, tmp_path / "b")]
    console = Console(width=80, file=io.StringIO())
    console.print(live_table(cells, "setting"))
    lines = console.file.getvalue().splitlines()
    assert any("setting" in line and "seed 0" in line and "seed 1" in line for line in lines)
    assert sum("waiting" in line for line in lines) == 2


def test_a_run_that_ended_is_printed_once(tmp_path):
    cells = [Cell("a", seed, {}, tmp_path) for seed in (0, 1)]
    cells[1].error = "broken"
    console = Console(width=80, file=io.StringIO())
    with CellProgress(console) as progress:
        progress.update(cells)
        progress.update(cells)
    assert console.file.getvalue() == "1/2  a, seed 1: failed\n"
