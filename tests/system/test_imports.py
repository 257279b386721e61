import subprocess
import sys

import pytest

import fedloge
from fedloge.system.imports import loading, on_first_use


def test_public_names_are_listed_without_torch():
    code = "import sys, fedloge; print(dir(fedloge)); print('torch' in sys.modules)"
    listed, imported = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert set(fedloge.__all__) <= set(eval(listed))
    assert imported == "False"


def test_names_are_imported_from_their_homes():
    attribute, names = on_first_use("json", {"decoder": "json.decoder", "JSONDecoder": "json.decoder"})
    assert names() == ["JSONDecoder", "decoder"]
    assert attribute("JSONDecoder") is attribute("decoder").JSONDecoder
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'loads'"):
        attribute("loads")


@pytest.mark.parametrize(
    ("terminal", "quiet", "loaded", "expected"),
    [
        (True, False, False, "loading torch ...\r\x1b[K"),
        (True, True, False, ""),
        (False, False, False, ""),
        (True, False, True, ""),
    ],
)
def test_loading_is_shown_on_a_terminal_and_erased(terminal, quiet, loaded, expected, monkeypatch, capsys):
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with loading(quiet):
        pass
    assert capsys.readouterr() == ("", expected)
