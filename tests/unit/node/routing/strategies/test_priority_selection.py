"""Priority selection: the lists, then another strategy."""

from __future__ import annotations

from node.routing.strategies import Need
from tests.unit.node.routing.strategies.ranks import Ranks

LISTS = {"model_priority": ["c.m"], "provider_priority": ["b"]}


def test_the_first_active_of_the_lists_comes_first() -> None:
    """Models, then providers; a higher entry takes the traffic back as soon as it is a candidate again."""
    ranks = Ranks("priority-selection", **LISTS)

    assert ranks("abcd")[:2] == "cb"
    assert ranks("abd")[:1] == "b"
    assert ranks("abcd")[:2] == "cb"


def test_the_rest_goes_by_round_robin() -> None:
    """The documented fallback."""
    ranks = Ranks("priority-selection", **LISTS)

    assert [ranks("ad", turn=turn) for turn in range(3)] == ["ad", "da", "ad"]
    assert [ranks(turn=turn) for turn in range(2)] == ["cbad", "cbda"]
    assert Need.TURN in ranks.strategy.needs


def test_the_rest_goes_by_the_strategy_that_was_asked_for() -> None:
    """With its own options, in the same pool."""
    ranks = Ranks(
        "priority-selection", fallback_strategy="load-balanced", weights={"a.m": 3, "b.m": 0}, **LISTS
    )

    assert [ranks("ad", turn=turn)[0] for turn in range(4)].count("a") == 3


def test_the_rest_may_be_refused() -> None:
    """``error``: better no answer than one of a model that nobody named."""
    ranks = Ranks("priority-selection", fallback_strategy="error", **LISTS)

    assert ranks("abcd") == "cb"
    assert ranks("ad") == ""
