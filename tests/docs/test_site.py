"""The site builds without a warning, is complete, and works in a browser without a network."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import zlib

import pytest

import fedloge
from documented import ROOT
from fedloge.methods import Method

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; every warning is an error."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def inventory(site):
    """The page of every documented name."""
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    return {line.split()[0]: line.split()[3].partition("#")[0] for line in lines}


def test_every_public_name_is_in_the_reference(inventory):
    packages = ["fedloge", "fedloge.collapse"]
    packages += [module.name for module in pkgutil.walk_packages(fedloge.__path__, "fedloge.") if module.ispkg]
    missing = []
    for package in map(importlib.import_module, packages):
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
            if not inventory.keys() & {f"{package.__name__}.{name}", home}:
                missing.append(f"{package.__name__}.{name}")
    assert missing == []


def test_every_method_has_a_page_of_its_own(inventory):
    methods = [getattr(fedloge.methods, name) for name in fedloge.methods.__all__]
    papers = [method for method in methods if issubclass(method, Method) and method is not Method]
    pages = {inventory[f"fedloge.methods.{paper.__name__}"] for paper in papers}
    assert pages == {f"methods/{paper.__module__.rpartition('.')[2]}.html" for paper in papers}
    assert len(pages) == len(papers)


def test_no_role_is_left_in_a_docstring(site):
    for page in site.rglob("*.html"):
        assert not re.search(":[a-z]+:<code>", page.read_text(encoding="utf-8")), page.name


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_pages_fit_and_ask_no_network(scheme, width, site, browser):
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    said, requested = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # its links are those of a server's root
            continue
        page.goto(path.as_uri())
        page.wait_for_function("document.documentElement.classList.contains('js')")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path.name
    assert said == []
    assert [url for url in requested if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_the_search_works_from_a_file(site, browser):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("f")
    page.keyboard.type("balanced_softmax", delay=20)
    page.locator("a.md-search-result__link[href*='realignment']").first.wait_for(state="attached", timeout=20_000)
    page.close()
