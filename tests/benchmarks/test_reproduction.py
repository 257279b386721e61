"""The page of the paper's numbers and ours is made of what the studies wrote."""

import re

from benchmarks import reproduction

TEXT = "# Page\n\n<!-- study table3 -->\nold\n<!-- end -->\n\nbetween\n\n<!-- study fig5 -->\n\n<!-- end -->\n"


def result(folder, scale, name, picture=False):
    path = folder / scale / name
    path.mkdir(parents=True)
    (path / "study.md").write_text(f"# {name} at {scale}\n\n| a |\n| --- |\n| 1 |\n")
    if picture:
        (path / "study.png").write_bytes(b"picture")


def test_the_page_has_a_place_for_every_study():
    found = re.findall(r"<!-- study (\w+) -->", reproduction.PAGE.read_text())
    assert sorted(found) == reproduction.names()


def test_blocks_are_renewed_from_the_largest_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "FIGURES", tmp_path)
    result(tmp_path, "tiny", "table3")
    result(tmp_path, "small", "table3")
    result(tmp_path, "tiny", "fig5", picture=True)
    text = reproduction.page(TEXT, tmp_path)
    assert "old" not in text
    assert "## table3 at small\n\n```\nfedloge study configs/studies/table3.yaml --scale=small\n```\n\n| a |" in text
    assert "![fig5 at tiny](figures/study_fig5_tiny.png)" in text
    assert (tmp_path / "study_fig5_tiny.png").read_bytes() == b"picture"
    assert "\nbetween\n" in text
    assert reproduction.page(text, tmp_path) == text


def test_a_block_without_a_result_stays(tmp_path):
    assert reproduction.page(TEXT, tmp_path) == TEXT
