"""Every study has a page, made from the study's results, and a row in the summary of the reproduction."""

import re

from benchmarks import reproduction

SUMMARY = reproduction.PAGES.with_suffix(".md")
ROW = re.compile(r"^\| \[[^\]]+\]\(reproduction/(\w+)\.md\) \|.*\| `(\w+)` \|", re.MULTILINE)
COMMAND = re.compile(r"fedloge study configs/studies/(\w+)\.yaml --scale=(\w+)")


def result(folder, scale, name, picture=False):
    path = folder / scale / name
    path.mkdir(parents=True)
    (path / "study.md").write_text(f"# {name} at {scale}\n\n| a |\n| --- |\n| 1 |\n")
    if picture:
        (path / "study.png").write_bytes(b"picture")


def test_every_study_has_a_page_and_a_row_of_the_summary_with_its_scale():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in reproduction.PAGES.glob("*.md")}
    assert sorted(pages) == reproduction.names()
    assert all(COMMAND.search(text)[1] == name for name, text in pages.items())
    scales = {name: COMMAND.search(text)[2] for name, text in pages.items()}
    assert dict(ROW.findall(SUMMARY.read_text(encoding="utf-8"))) == scales


def test_pages_are_written_from_the_largest_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "FIGURES", tmp_path)
    monkeypatch.setattr(reproduction, "PAGES", tmp_path)
    result(tmp_path, "tiny", "table3")
    result(tmp_path, "small", "table3")
    result(tmp_path, "tiny", "fig5", picture=True)
    assert reproduction.main([str(tmp_path)]) == 0
    table = "# table3 at small\n\n```\nfedloge study configs/studies/table3.yaml --scale=small\n```\n\n| a |\n"
    assert (tmp_path / "table3.md").read_text() == f"{table}| --- |\n| 1 |\n"
    assert "\n\n![fig5 at tiny](../figures/study_fig5_tiny.png)\n\n| a |" in (tmp_path / "fig5.md").read_text()
    assert (tmp_path / "study_fig5_tiny.png").read_bytes() == b"picture"


def test_a_page_without_a_result_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "PAGES", tmp_path)
    (tmp_path / "table3.md").write_text("as it was")
    assert reproduction.main([str(tmp_path)]) == 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table3.md", "as it was")]
