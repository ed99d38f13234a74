"""Canary: a fixed part of the traffic."""

from __future__ import annotations

from collections import Counter

from tests.unit.node.routing.strategies.ranks import Ranks

CANARY = Ranks("canary", weights={"b.m": 0.05})


def test_a_canary_has_its_part_whoever_else_is_active() -> None:
    """The others divide the rest evenly."""
    for letters, each in (("abcd", 190 / 6), ("abc", 47.5), ("ab", 95)):
        counts = Counter(CANARY(letters, turn=turn)[0] for turn in range(2000))
        assert counts["b"] == 100
        assert letters == "abcd" or counts["a"] == each * 20


def test_a_part_is_spread() -> None:
    """One in twenty, not a hundred in a row."""
    at = [turn for turn in range(2000) if CANARY("ab", turn=turn)[0] == "b"]

    assert {later - earlier for earlier, later in zip(at, at[1:], strict=False)} == {20}


def test_a_failed_canary_falls_back_to_the_others() -> None:
    """And the others to a canary only when nobody else is left."""
    rankings = {CANARY("abc", turn=turn) for turn in range(40)}

    assert {ranking[0] for ranking in rankings} == {"a", "b", "c"}
    assert {ranking[-1] for ranking in rankings if ranking[0] != "b"} == {"b"}


def test_canaries_alone_serve_everything() -> None:
    """Better than nothing."""
    assert CANARY("b") == "b"
