"""Rate limit aware: pool order until the threshold."""

from __future__ import annotations

from node.routing.strategies import Signal
from tests.unit.node.routing.strategies.ranks import Ranks

AWARE = Ranks("rate-limit-aware")


def left(**shares: float | None) -> dict[str, Signal]:
    return {letter: Signal(headroom=share) for letter, share in shares.items()}


def test_the_preferred_model_is_kept_below_the_threshold() -> None:
    """0.8 unless the pool says otherwise; what is unknown is not near a limit."""
    assert AWARE("abc", signals=left(a=0.21, b=1.0, c=None)) == "abc"


def test_models_at_the_threshold_come_last() -> None:
    """The one with the most room first among them."""
    assert AWARE("abc", signals=left(a=0.05, b=0.2, c=0.9)) == "cba"
    assert AWARE("abc", signals=left(a=0.1, b=0.15, c=0.0)) == "bac"


def test_the_threshold_is_the_pools() -> None:
    """A share of what is used."""
    cautious = Ranks("rate-limit-aware", rate_limit={"threshold": 0.5})

    assert cautious("ab", signals=left(a=0.5, b=0.6)) == "ba"
    assert cautious("ab", signals=left(a=0.51, b=0.6)) == "ab"
