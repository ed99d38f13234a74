"""Latency first: the fastest of late."""

from __future__ import annotations

from node.routing.strategies import Request, Signal
from tests.unit.node.routing.strategies.ranks import Ranks

FAST = Ranks("latency-first")
STREAM = Request(is_stream=True)


def seen(latency_ms: float, first_token_ms: float | None = None, *, age_s: float = 1.0) -> Signal:
    return Signal(latency_ms=latency_ms, first_token_ms=first_token_ms, age_s=age_s)


def test_the_fastest_comes_first() -> None:
    """Whole answers by the whole time, streams by their first token."""
    signals = {"a": seen(300, 20), "b": seen(100, 80), "c": seen(200, 50)}

    assert FAST("abc", signals=signals, turn=1) == "bca"
    assert FAST("abc", signals=signals, turn=1, request=STREAM) == "acb"


def test_a_model_that_never_streamed_goes_by_its_whole_time() -> None:
    """Better than nothing."""
    assert FAST("ab", signals={"a": seen(300, 200), "b": seen(100)}, turn=1, request=STREAM) == "ba"


def test_who_was_never_measured_counts_as_the_median() -> None:
    """Neither first nor last; ties by pool order."""
    signals = {"a": seen(300), "b": seen(100), "d": seen(200)}

    assert FAST("abcd", signals=signals, turn=1) == "bcda"
    assert FAST("abcd", turn=1) == "abcd"


def test_now_and_then_a_turn_goes_to_what_was_not_measured_of_late() -> None:
    """Else a slow model would never be seen to have become fast, nor a new one at all."""
    signals = {"a": seen(100), "b": seen(500, age_s=31)}
    with_new = signals | {"b": seen(500)}

    assert [FAST("ab", signals=signals, turn=turn)[0] for turn in range(20)].count("b") == 2
    assert [FAST("abc", signals=with_new, turn=turn)[0] for turn in range(20)].count("c") == 2
    assert [FAST("ab", signals=with_new, turn=turn)[0] for turn in range(20)].count("b") == 0
    assert [FAST("ab", turn=turn)[0] for turn in range(20)].count("b") == 1
