"""The page in a real browser."""

import pytest

from fedloge.report.write import write_report

SECTIONS = ("result", "curves", "classes", "clients", "confusion", "norms", "frame", "cost", "settings")
FIGURES = {
    "curves-global",
    "curves-personal",
    "classes-global-0",
    "classes-personal-0",
    "clients-0",
    "images-0",
    "partition-0",
    "confusion-global-0",
    "confusion-personal-0",
    "norms-shared-0",
    "norms-client-0",
    "frame-0-sse",
    "cost-loss",
    "cost-seconds",
    "cost-bytes",
}


class Visit:
    """A page that is open, with what its console said and what it asked the network for."""

    def __init__(self, browser, path, scheme="light", width=1280, **device):
        self.page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}, **device)
        self.said, self.requested = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(f"file://{path}")
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
        )

    def figures(self):
        return set(self.page.eval_on_selector_all(".plot", "plots => plots.map((plot) => plot.id)"))

    def overflow(self):
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def ground(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.fixture(scope="module")
def report(run_folder, tmp_path_factory):
    return write_report([run_folder], tmp_path_factory.mktemp("pages") / "report.html")


@pytest.fixture
def visit(browser):
    visits = []

    def go(*args, **options):
        visits.append(Visit(browser, *args, **options))
        return visits[-1]

    yield go
    for one in visits:
        one.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_figure_is_there_and_nothing_else_is_asked_for(report, visit, scheme, width):
    shown = visit(report, scheme, width)
    assert shown.said == []
    assert shown.requested == [f"file://{report}"]
    assert shown.figures() == FIGURES
    assert [shown.page.locator(f"#{name}").count() for name in SECTIONS] == [1] * len(SECTIONS)
    assert shown.overflow() <= 0


def test_the_page_follows_the_colour_scheme(report, visit):
    shown = visit(report)
    title = "getComputedStyle(document.querySelector('#curves-global .xtitle')).fill"
    before = shown.ground(), shown.page.evaluate(title)
    shown.page.emulate_media(color_scheme="dark")
    shown.page.wait_for_function(f"{title} !== '{before[1]}'")
    assert shown.ground() != before[0]
    assert shown.said == []


def test_nothing_is_hidden_on_a_phone(report, visit):
    """Plotly's toolbar would cover the legend, and the tables of accuracies have their last column."""
    shown = visit(report, width=390, has_touch=True, is_mobile=True)
    assert shown.page.locator(".modebar-btn").count() == 0
    hidden = "all => all.map((one) => one.scrollWidth - one.clientWidth)"
    assert shown.page.eval_on_selector_all("#result .scroll", hidden) == [0, 0]
    assert visit(report).page.locator(".modebar-btn").count() > 0


def test_digits_on_the_cells_of_the_dark_page_are_white_with_a_dark_edge(report, visit):
    digits = ".plot .heatmap-label text"
    colours = "all => [...new Set(all.map((one) => [getComputedStyle(one).fill, getComputedStyle(one).stroke].join()))]"
    dark = visit(report, "dark").page.eval_on_selector_all(digits, colours)
    assert dark == ["rgb(255, 255, 255),rgb(13, 36, 64)"]
    assert len(visit(report).page.eval_on_selector_all(digits, colours)) > 1  # black or white, by the cell


def test_bars_are_sorted_on_demand_in_all_figures(report, visit):
    shown = visit(report)
    order = "document.getElementById('{}').layout.xaxis.categoryarray"
    before = [shown.page.evaluate(order.format(f"classes-{view}-0")) for view in ("global", "personal")]
    shown.page.select_option("select[data-for=classes-global-0]", label="accuracy")
    shown.page.wait_for_function(f"{order.format('classes-global-0')}.join() !== '{','.join(before[0])}'")
    after = [shown.page.evaluate(order.format(f"classes-{view}-0")) for view in ("global", "personal")]
    assert [sorted(names) for names in after] == [sorted(names) for names in before]
    assert after[1] != before[1]
    assert shown.page.input_value("select[data-for=classes-personal-0]") == "1"
    assert shown.said == []


def test_a_client_is_chosen_in_all_figures(report, visit):
    shown = visit(report)
    norms = "document.getElementById('norms-client-0').data[0].y.join()"
    before = shown.page.evaluate(norms)
    shown.page.select_option("select[data-for=images-0]", label="client 4")
    shown.page.wait_for_function(f"{norms} !== '{before}'")
    assert shown.page.input_value("select[data-for=norms-client-0]") == "4"
    assert shown.said == []


def test_every_choice_of_every_control_works(report, visit):
    shown = visit(report)
    selects = shown.page.locator("select[data-for]")
    for select in selects.all():
        for value in range(select.locator("option").count()):
            select.select_option(str(value))
    assert selects.count() >= 8
    assert shown.said == []


def test_values_show_on_hover(report, visit):
    shown = visit(report)
    shown.page.locator("#confusion-global-0 .nsewdrag").hover()
    shown.page.wait_for_selector("#confusion-global-0 .hoverlayer text")
    assert "predicted" in shown.page.text_content("#confusion-global-0 .hoverlayer")


def test_runs_side_by_side(make_run, visit, tmp_path):
    runs = [make_run("a"), make_run("b", realigned=False), make_run("c", seed=5)]
    shown = visit(write_report(runs, tmp_path / "three.html"))
    assert shown.said == []
    assert {"classes-global-2", "clients-1", "frame-2-sse"} <= shown.figures()
    tops = {shown.page.locator(f"#classes-global-{k}").bounding_box()["y"] for k in range(3)}
    assert len(tops) == 1
    assert shown.overflow() <= 0
    assert visit(tmp_path / "three.html", width=375).overflow() <= 0


def test_a_page_of_100_classes_and_100_clients(make_run, visit):
    shown = visit(write_report([make_run(num_classes=100, num_clients=100, rounds=50, dim=128)]), width=375)
    assert shown.figures() == FIGURES
    assert shown.said == []
    assert shown.overflow() <= 0
