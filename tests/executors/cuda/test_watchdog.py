import os
import threading

import pytest

from fedloge.executors.cuda.watchdog import Watchdog, end_process


@pytest.fixture
def watchdog():
    """A quick watchdog, its messages, and what is set with the first of them."""
    messages, ended = [], threading.Event()

    def end(message):
        messages.append(message)
        ended.set()

    dog = Watchdog(end)
    dog.limit = 0.02
    return dog, messages, ended


def test_a_block_that_does_not_return_ends_the_process(watchdog):
    dog, messages, ended = watchdog
    with dog, dog.watching():
        assert ended.wait(30)
    (message,) = messages
    assert "has not finished within 0 s" in message
    assert "--trainer.executor.graphs=false" in message


def test_what_is_not_watched_may_take_its_time(watchdog):
    dog, messages, ended = watchdog
    with dog:
        with dog.watching():
            pass
        assert not ended.wait(0.2)
    assert messages == []


def test_the_end_is_one_line_and_a_code(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    end_process("a step has not finished")
    assert capsys.readouterr().err == "fedloge: error: a step has not finished\n"
    assert codes == [1]
