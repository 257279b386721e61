"""What is said of clients that are not tested or fail."""

import math

import torch

from fedloge.evaluation.evaluator import ClientScore, Evaluation
from fedloge.runs.coverage import client_notes, clients_words, coverage, mean_words


def score(client, few=0.5):
    groups = {"many": 1.0, "medium": 0.5, "few": few}
    return ClientScore(client, 8, 2, 0.5, 0.5, 0.5, groups)


def evaluation(*scores):
    return Evaluation(None, torch.eye(3, dtype=torch.int64), scores, ("many", "medium", "few"))


def fault(client, reason="ValueError: no loss"):
    return {"round": "1", "client": str(client), "reason": reason, "attempts": "2"}


def test_nothing_is_said_where_all_clients_are_tested_and_none_failed():
    known = coverage([2, 2], evaluation(score(0), score(1)))
    assert known == {
        "count": 2,
        "tested": 2,
        "tested_by_group": {"many": 2, "medium": 2, "few": 2},
        "not_tested": [],
        "failed": [],
    }
    assert mean_words(known) == mean_words(None) == "mean over clients"
    assert clients_words(known) == clients_words(None) == "the clients"
    assert client_notes(known) == client_notes(None) == []


def test_how_many_clients_a_mean_covers():
    known = coverage([2, 0, 2, 2, 0], evaluation(score(0), score(2, few=math.nan), score(3)))
    assert known["tested_by_group"] == {"many": 3, "medium": 3, "few": 2}
    assert known["not_tested"] == [1, 4]
    assert clients_words(known) == "3 of 5 clients"
    assert mean_words(known) == "mean over 3 of 5 clients (few over 2 of 5)"
    assert client_notes(known) == ["2 of 5 clients have no test images and are not tested: 1, 4."]


def test_a_group_that_no_client_has_is_left_out():
    assert mean_words(coverage([2], evaluation(score(0, few=math.nan)))) == "mean over clients"


def test_many_clients_are_counted():
    notes = client_notes(coverage([0] * 8 + [2], None, [fault(k) for k in range(7)]))
    assert notes[0] == "8 of 9 clients have no test images and are not tested: 0, 1, 2, 3, 4 and 3 more."
    assert notes[-1] == "7 of 9 clients failed; faults.csv lists them all."
    assert len(notes) == 7


def test_clients_that_failed():
    faults = [fault(2), fault(2, "ValueError: [x] later"), fault(0)]
    known = coverage([2, 2, 0], evaluation(score(0), score(1)), faults, {2: 2, 0: 10})
    assert known["failed"] == [
        {"client": 0, "failures": 1, "rounds": 10, "reason": "ValueError: no loss"},
        {"client": 2, "failures": 2, "rounds": 2, "reason": "ValueError: [x] later"},
    ]
    assert client_notes(known) == [
        "1 of 3 clients has no test images and is not tested: 2.",
        "Client 0 failed in 1 of its 10 rounds: ValueError: no loss.",
        "Client 2 was never trained, it failed in all of its 2 rounds: ValueError: [x] later.",
    ]
