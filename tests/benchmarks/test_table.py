import json

from benchmarks import table
from benchmarks.workloads import WORKLOADS


def result(**changes):
    entry = {"ours": "fedloge-processes@4", "other": "pfl@4", "worse": []}
    entry |= {
        "ours_s": 2.0,
        "other_s": 3.0,
        "ours_cpu_s": 8.0,
        "other_cpu_s": 8.0,
        "ratio": 1.5,
        "low": 1.4,
        "high": 1.6,
    }
    return {
        "workload": "cpu-mini",
        "kind": "round",
        "about": "a round",
        "profile": "full",
        "against": None,
        "date": "2030-01-02",
        "commit": "abc",
        "data": "synthetic",
        "pairs": 8,
        "machine": {"processor": "abacus", "cores": 4, "memory_gib": 8, "gpu": None},
        "versions": {"fedloge-processes": {"torch": "2"}, "pfl": {"torch": "2", "pfl": "1"}},
        "gate": {"pfl@4": {"passed": True, "difference": 1e-7, "without": ["running_var"]}},
        "skipped": {"pfl-processes@4": "pfl is not installed"},
        "failed": {},
        "runs": [{"contender": "pfl@4", "others_cores": 0.25, "details": {}}],
        "comparisons": [{**entry, "cpu_ratio": 1.0}],
    } | changes


def write(folder, name, **changes):
    (folder / f"{name}.json").write_text(json.dumps(result(**changes)))


def test_the_page_is_what_the_results_say():
    text = table.PAGE.read_text()
    assert table.page(text, table.RESULTS) == text, "run python -m benchmarks.table"


def test_without_results_every_target_is_open(tmp_path):
    text = table.render(table.latest(tmp_path))
    targets = [c for w in WORKLOADS.values() for c in w.comparisons if c.at_least or c.at_most]
    assert text.count("not measured") == len(targets) > 5


def test_the_newest_whole_result_counts(tmp_path):
    write(tmp_path, "cpu-mini-1", date="2030-01-01", commit="older")
    write(tmp_path, "cpu-mini-2")
    write(tmp_path, "cpu-mini-3", date="2030-01-03", profile="quick")
    write(tmp_path, "cpu-mini-4", date="2030-01-04", against=["pfl"])
    assert table.latest(tmp_path)["cpu-mini"]["commit"] == "abc"


def test_a_result_in_the_table(tmp_path):
    write(tmp_path, "cpu-mini")
    text = table.render(table.latest(tmp_path))
    assert "| cpu-mini | fedloge-processes@4 | pfl@4 | ≥ 1.2× | 1.50× (1.40 to 1.60) | met |" in text
    assert "| fedloge-processes@4 | pfl@4 | 2 | 3 | 1.50 | 1.40 to 1.60 | 1.00 |" in text
    assert "2030-01-02, commit abc, abacus, 4 cores, 8 GiB, synthetic images, 8 pairs" in text
    assert "Not measured: pfl-processes@4, pfl is not installed." in text
    assert "Largest difference from the reference (pfl@4 compared without running_var): 1.0e-07." in text


def test_an_exchange_states_its_memory(tmp_path):
    runs = [{"contender": "flwr@1", "others_cores": 0.0, "details": {}, "peak_mib": 1234.5}]
    write(tmp_path, "exchange", workload="exchange", kind="exchange", comparisons=[], runs=runs)
    assert "| flwr@1 | 1234 |" in table.render(table.latest(tmp_path))


def test_a_missed_target_is_called_missed(tmp_path):
    missed = result()["comparisons"][0] | {"ratio": 1.1}
    write(tmp_path, "cpu-mini", comparisons=[missed])
    assert "| 1.10× (1.40 to 1.60) | **not met** |" in table.render(table.latest(tmp_path))


def test_a_failed_contender_is_named(tmp_path):
    write(tmp_path, "cpu-mini", failed={"pfl@4": "Traceback"}, runs=[], comparisons=[], gate={})
    assert "Failed: pfl@4." in table.render(table.latest(tmp_path))


def test_the_text_around_the_tables_stays(tmp_path):
    write(tmp_path, "cpu-mini")
    once = table.page(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", tmp_path)
    assert once.startswith(f"before\n{table.BEGIN}\n")
    assert once.endswith(f"{table.END}\nafter\n")
    assert "old" not in once
    assert table.page(once, tmp_path) == once
