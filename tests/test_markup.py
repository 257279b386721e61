import ast
import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from fedloge.markup import markdown_text, matplotlib_text, plotly_text, rich_text, shortened
from fedloge.plotting import heat_map, new_figure, norm_panel, png
from fedloge.tables import Table
from names import AWKWARD

SOURCE = Path(__file__).parents[1] / "src" / "fedloge"
NAMES = pytest.mark.parametrize("name", AWKWARD.values(), ids=AWKWARD)


class Words(HTMLParser):
    """The text of the elements of a kind, with line breaks, and the other elements."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.found, self.others, self.open = kind, [], set(), False

    def handle_starttag(self, tag, attrs):
        if tag == self.kind:
            self.open = True
            self.found.append("")
        elif self.open and tag == "br":
            self.found[-1] += "\n"
        else:
            self.others.add(tag)

    def handle_endtag(self, tag):
        self.open = self.open and tag != self.kind

    def handle_data(self, data):
        if self.open:
            self.found[-1] += data


def words(html, kind):
    parser = Words(kind)
    parser.feed(html)
    return [text.strip() for text in parser.found], parser.others


def shown(renderable, width=400):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


@NAMES
def test_a_terminal_shows_a_name_as_it_is(name):
    table = Table(name, [name, "GM"], [[name, 1]])
    text = shown(table.rich(name))
    for line in name.splitlines():
        assert text.count(line.strip()) == 4, text
    assert shown(rich_text(name)).rstrip("\n") == name
    assert rich_text("\x1b[31mred").plain == "␛[31mred"


@NAMES
def test_markdown_shows_a_name_as_it_is(name):
    source = Table(name, ["a", "b"], [[name, "x"]]).markdown() + f"\n\n{markdown_text(name)}\n"
    for html in (
        MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source),
        markdown.markdown(source, extensions=["tables"]),
    ):
        for kind, place in (("h2", 0), ("td", 0), ("p", 0)):
            found, others = words(html, kind)
            assert found[place] == name, (kind, html)
            assert others <= {"br", "h2", "p", "table", "thead", "tbody", "tr", "th", "td"}


def test_markdown_of_plain_words_is_not_changed():
    for text in ("per_class.csv", "-0.5", "43.5 ± 0.3 (43.50)", "FedAvg, not fine-tuned", "1e-3", "a > b"):
        assert markdown_text(text) == text


def drawn(figure):
    """The texts of a figure, as its SVG has them."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    return [
        "".join(item.itertext()) for item in ET.fromstring(buffer.getvalue()).iter("{http://www.w3.org/2000/svg}text")
    ]


@NAMES
@pytest.mark.filterwarnings("ignore:Glyph")
def test_matplotlib_draws_a_name_as_it_is(name):
    figure, (left, right) = new_figure(1, 2, 12, 6)
    heat_map(left, [[1, 0], [0, 1]], [name, "b"])
    rows = [{"class": name, "n": n, "norm": n} for n in (1, 4)]
    norm_panel(right, rows, {"theory": 0.25, "exponent": 1.0, "spearman": 1.0}, name)
    right.set_title(matplotlib_text(name))
    texts = "\n".join(drawn(figure)).replace("\N{ZERO WIDTH SPACE}", "")
    for line in shortened(name).splitlines():
        assert texts.count(line) >= (7 if "\n" in name else 6), texts


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_legend_has_every_name():
    _, (ax,) = new_figure(1, 1, 4, 4)
    for name in AWKWARD.values():
        ax.plot([0, 1], [0, 1], label=matplotlib_text(name))
    assert len(ax.legend().get_texts()) == len(AWKWARD)


@pytest.mark.filterwarnings("error")
def test_a_letter_without_a_font_does_no_harm():
    figure, (ax,) = new_figure(1, 1, 2, 1)
    ax.set_title("🐝")
    assert png(figure).startswith(b"\x89PNG")


def test_plotly_gets_no_tags():
    assert plotly_text("<b>a & b</b>\nc") == "&lt;b&gt;a &amp; b&lt;/b&gt;<br>c"


def test_long_names_lose_their_middle():
    assert shortened("a" * 40) == "a" * 40
    assert shortened("start" + "x" * 90 + "end") == "start" + "x" * 15 + "…" + "x" * 16 + "end"
    assert len(shortened("y" * 41)) == 40


def test_nothing_prints_a_composed_text_that_rich_would_parse():
    """Every f-string that a console prints goes through ``rich_text``."""
    loose = []
    for path in sorted(SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "print":
                loose += [f"{path.name}:{call.lineno}" for each in call.args if isinstance(each, ast.JoinedStr)]
    assert not loose
