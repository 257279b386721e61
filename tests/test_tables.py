import io

from rich.console import Console

from fedloge.tables import Table, cell, from_rows, print_table

TABLE = Table("Accuracy", ["method", "GM"], [["a|b", "1.0"], ["c", 2]])


def test_markdown_aligns_numbers_right_and_escapes_bars():
    assert TABLE.markdown() == "## Accuracy\n\n| method | GM |\n| --- | ---: |\n| a\\|b | 1.0 |\n| c | 2 |"
    assert Table("", ["x"], [], names=0).markdown() == "| x |\n| ---: |"


def test_csv_has_no_title():
    assert TABLE.csv() == "method,GM\r\na|b,1.0\r\nc,2\r\n"
    assert TABLE.csv("\n") == TABLE.csv().replace("\r\n", "\n")


def test_rich_aligns_as_markdown():
    table = TABLE.rich("note")
    assert (str(table.title), str(table.caption)) == ("Accuracy", "note")
    assert [(column.justify, column.no_wrap) for column in table.columns] == [("left", True), ("right", True)]
    console = Console(file=io.StringIO(), width=60)
    console.print(table)
    assert "a|b" in console.file.getvalue()


def test_rows_with_the_same_keys_become_a_table():
    table = from_rows("t", [{"head": "psi", "share": "12 %", "x": 0.5, "n": None}, {"head": "", "share": "", "x": 1}])
    assert table.names == 1
    assert table.rows[0] == ["psi", "12 %", "0.5000", ""]


def test_cells():
    assert [cell(value) for value in (0.0, 1e-5, 12345.6, 7, float("nan"), None, "x")] == [
        "0.0000",
        "1.0e-05",
        "1.2e+04",
        "7",
        "",
        "",
        "x",
    ]


def test_printed_tables_are_wide_where_there_is_no_terminal(capsys):
    print_table("wide", [{f"column number {i}": 1.0 for i in range(10)}], "note")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.count("column number") == 10 for line in lines)
