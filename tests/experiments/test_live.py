import io

from rich.console import Console

from fedloge.experiments.live import CellProgress, counted, live_table
from fedloge.experiments.runner import Cell


def test_the_live_view_of_uneven_seeds(tmp_path):
    cells = [Cell("gamma=1", 0, {}, tmp_path / "a"), Cell("gamma=2", 1, {}, tmp_path / "b")]
    console = Console(width=80, file=io.StringIO())
    console.print(live_table(cells, "setting"))
    lines = console.file.getvalue().splitlines()
    assert any("setting" in line and "seed 0" in line and "seed 1" in line for line in lines)
    assert sum("waiting" in line for line in lines) == 2


def running(cell, rounds):
    cell.run.mkdir(parents=True, exist_ok=True)
    (cell.run / "metrics.csv").write_text("round,global/acc\n" + "".join(f"{n + 1},0.5\n" for n in range(rounds)))


def test_lines_say_how_far_and_how_long(tmp_path):
    """Two runs of ten rounds; at the pace of a round in two seconds, 14 rounds take 28 seconds."""
    cells = [Cell("a", seed, {"trainer": {"rounds": 10}}, tmp_path) for seed in (0, 1)]
    seconds = iter([0.0, 2.0, 12.0, 12.0])
    console = Console(width=80, file=io.StringIO())
    with CellProgress(console, clock=lambda: next(seconds)) as progress:
        for first, second in ((0, 0), (1, 0), (3, 3), (3, 3)):
            running(cells[0], first)
            running(cells[1], second)
            progress.update(cells)
    assert console.file.getvalue() == "0/2  30% of the rounds are done; about 28 s left\n"
    assert cells[0].share == 0.3
    assert "round 3" in live_text(cells)


def live_text(cells):
    console = Console(width=80, file=io.StringIO())
    console.print(live_table(cells))
    return console.file.getvalue()


def test_items_are_counted_by_tenths():
    console = Console(width=80, file=io.StringIO())
    assert list(counted(range(20), "rows measured", console)) == list(range(20))
    lines = console.file.getvalue().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("rows measured: 2/20", "rows measured: 20/20", 10)


def test_a_run_that_ended_is_printed_once(tmp_path):
    cells = [Cell("a", seed, {}, tmp_path) for seed in (0, 1)]
    cells[1].error = "broken"
    console = Console(width=80, file=io.StringIO())
    with CellProgress(console) as progress:
        progress.update(cells)
        progress.update(cells)
    assert console.file.getvalue() == "1/2  a, seed 1: failed\n"
