"""Load balanced: by weights, or by the room that limits leave."""

from __future__ import annotations

from collections import Counter

from node.routing.strategies import Need, Signal
from tests.unit.node.routing.strategies.ranks import Ranks


def picks(ranks: Ranks, signals: dict[str, Signal], letters: str = "ab") -> Counter[str]:
    return Counter(ranks(letters, signals=signals, turn=turn)[0] for turn in range(1000))


def test_weights_need_no_signals() -> None:
    """They are exact over the fleet."""
    ranks = Ranks("load-balanced", weights={"a.m": 2, "b.m": 0.5})

    assert picks(ranks, {}, "abc") == {"a": 571, "b": 143, "c": 286}
    assert ranks.strategy.needs == {Need.TURN}


def test_relative_goes_by_the_share_that_is_left() -> None:
    """A small account that is fresh takes as much as a large one that is fresh."""
    ranks = Ranks("load-balanced")
    signals = {"a": Signal(headroom=0.9, requests_left=9), "b": Signal(headroom=0.3, requests_left=300)}

    assert abs(picks(ranks, signals)["a"] - 750) <= 5


def test_absolute_goes_by_the_requests_that_are_left() -> None:
    """The larger account takes more."""
    ranks = Ranks("load-balanced", balance_mode="absolute")
    signals = {"a": Signal(headroom=0.9, requests_left=100), "b": Signal(headroom=0.3, requests_left=300)}

    assert abs(picks(ranks, signals)["b"] - 750) <= 5


def test_where_nothing_is_known_the_median_is_taken() -> None:
    """Neither preferred nor passed over."""
    ranks = Ranks("load-balanced", balance_mode="absolute")
    signals = {"a": Signal(requests_left=100), "b": Signal(requests_left=300)}

    assert abs(picks(ranks, signals, "abc")["c"] - 333) <= 5


def test_without_any_room_the_load_is_even() -> None:
    """Admission decides then."""
    signals = dict.fromkeys("ab", Signal(headroom=0.0))

    assert abs(picks(Ranks("load-balanced"), signals)["a"] - 500) <= 5


def test_the_chain_goes_to_the_most_room() -> None:
    """Behind the model of the turn."""
    signals = {"a": Signal(headroom=1.0), "b": Signal(headroom=0.1), "c": Signal(headroom=0.5)}

    assert Ranks("load-balanced")("abc", signals=signals, turn=0) == "acb"
