"""Power of two choices on peak response times."""

from __future__ import annotations

from collections import Counter

from node.routing.strategies import Signal
from node.routing.strategies.power_of_two import _pair
from tests.unit.node.routing.strategies.ranks import Ranks

TWO = Ranks("power-of-two")
DRAWS = [step / 1200 for step in range(1200)]


def test_every_pair_is_drawn_alike() -> None:
    """And never a model with itself."""
    pairs = Counter(frozenset(_pair(4, draw)) for draw in DRAWS)

    assert pairs == Counter(dict.fromkeys(pairs, 200))
    assert {len(pair) for pair in pairs} == {2}
    assert len(pairs) == 6


def test_the_better_of_the_pair_comes_first() -> None:
    """The worst of all is never first, and the best not always: nodes with the same view choose differently."""
    signals = {letter: Signal(peak_ms=100 * place) for place, letter in enumerate("abcd", 1)}
    firsts = Counter(TWO(signals=signals, draw=draw)[0] for draw in DRAWS)

    assert firsts == {"a": 600, "b": 400, "c": 200}


def test_peak_and_load_are_weighed_together() -> None:
    """A fast model with a long queue answers later than a slow idle one."""
    signals = {"a": Signal(peak_ms=100, in_flight=9), "b": Signal(peak_ms=500)}

    assert TWO("ab", signals=signals, draw=0.3) == "ba"
    assert TWO("ab", signals=signals | {"a": Signal(peak_ms=100, in_flight=3)}, draw=0.3) == "ab"


def test_who_was_never_measured_counts_as_the_median() -> None:
    """Its load still counts."""
    signals = {"a": Signal(peak_ms=100), "b": Signal(), "c": Signal(peak_ms=300)}

    assert TWO("abc", signals=signals, draw=0.99)[:2] == "bc"
    assert TWO("abc", signals=signals | {"b": Signal(in_flight=2)}, draw=0.99)[:2] == "cb"
