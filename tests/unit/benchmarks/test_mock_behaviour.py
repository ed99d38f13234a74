"""The language of misbehaviour, and the book of standing orders."""

from __future__ import annotations

import pytest

from benchmarks.mock_behaviour import (
    NO_FAULT,
    BehaviourError,
    Order,
    OrderBook,
    Pace,
    parse_behaviour,
    split_model,
)


def _book(seed: int = 0) -> OrderBook:
    return OrderBook(parse_behaviour("ok"), seed=seed)


def test_words_of_one_order_combine():
    """A pace and a fault may be ordered together."""
    behaviour = parse_behaviour("slow-head=100ms, status=503,retry-after=7")

    assert Pace(head_s=0.1) == behaviour.pace
    assert behaviour.fault.status == 503
    assert behaviour.fault.headers == (("retry-after", "7"),)


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("401", 401, None),
        ("insufficient_quota", 429, "insufficient_quota"),
        ("context_length_exceeded", 400, "context_length_exceeded"),
        ("html502", 502, None),
        ("fail=0.3", 500, None),
    ],
)
def test_short_names_stand_for_a_status(text, status, code):
    """Common errors have names of their own."""
    fault = parse_behaviour(text).fault

    assert status == fault.status
    assert code == fault.code


@pytest.mark.parametrize(
    "text", ["", "slow", "slow-head", "slow-head=soon", "status=99", "fail=2", "reset=-1"]
)
def test_an_order_that_makes_no_sense_is_refused(text):
    """A typing error never becomes a silent 'ok'."""
    with pytest.raises(BehaviourError):
        parse_behaviour(text)


def test_an_order_keeps_the_pace_that_it_does_not_mention():
    """A provider that was set up slow stays slow when it is told to fail."""
    behaviour = parse_behaviour("status=500,tokens=3", pace=Pace(head_s=0.05, token_s=0.01, tokens=20))

    assert Pace(head_s=0.05, token_s=0.01, tokens=3) == behaviour.pace


def test_a_model_name_may_carry_an_order():
    """What follows the exclamation mark is the order."""
    assert split_model("gpt-x!slow-head=2s") == ("gpt-x", "slow-head=2s")
    assert split_model("gpt-x") == ("gpt-x", None)


def test_an_order_starts_after_and_stops_when_it_was_counted():
    """Two good requests, then one failure, then good ones again."""
    book = _book()
    book.give(Order(parse_behaviour("500"), after=2, times=1))

    statuses = [book.choose("/v1/embeddings", "m").fault.status for _ in range(5)]

    assert statuses == [200, 200, 500, 200, 200]


def test_the_most_specific_order_wins():
    """An order for a model beats one for all, one that came with the request beats both."""
    book = _book()
    book.give(Order(parse_behaviour("500")))
    book.give(Order(parse_behaviour("429"), model="m"))

    assert book.choose("/p", "m").fault.status == 429
    assert book.choose("/p", "other").fault.status == 500
    assert book.choose("/p", "m", direct="503").fault.status == 503


def test_a_route_that_is_not_counted_obeys_only_its_own_orders():
    """Listing models neither fails by an order for calls nor uses it up."""
    book = _book()
    book.give(Order(parse_behaviour("500"), times=1))

    assert book.choose("/v1/models", "", is_counted=False).fault is NO_FAULT
    assert book.choose("/v1/embeddings", "m").fault.status == 500

    book.give(Order(parse_behaviour("503"), path="/v1/models"))

    assert book.choose("/v1/models", "", is_counted=False).fault.status == 503


def test_chance_strikes_its_share_and_repeats_with_its_seed():
    """A failure rate is met, and two runs with one seed fail alike."""
    runs = []
    for _ in range(2):
        book = _book(seed=7)
        book.give(Order(parse_behaviour("fail=0.3,status=503")))
        runs.append([book.choose("/p", "m").fault.status for _ in range(2000)])

    assert runs[0] == runs[1]
    assert 500 < runs[0].count(503) < 700
    assert set(runs[0]) == {200, 503}
