"""What holds for every strategy: pure orders over candidates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.strategies import STRATEGIES, Request, Signal
from shared_state.config.strategies import OPTIONS
from tests.unit.node.routing.strategies.ranks import Ranks

CONFIGURED: dict[str, dict[str, Any]] = {
    "canary": {"weights": {"b.m": 0.1}},
    "session-stickiness-strict": {"affinity_mode": "strict"},
    "load-balanced-weights": {"weights": {"a.m": 3, "b.m": 0.5, "c.m": 0}},
    "load-balanced-absolute": {"balance_mode": "absolute"},
    "priority-selection": {
        "model_priority": ["c.m"],
        "provider_priority": ["b"],
        "fallback_strategy": "least-busy",
    },
}
#: May leave out candidates: the configuration asks for it.
EXCLUSIVE = {"session-stickiness-strict"}
RANKS = {
    name: Ranks(
        name.removesuffix("-strict").removesuffix("-weights").removesuffix("-absolute"),
        **CONFIGURED.get(name, {}),
    )
    for name in [*(strategy.split(".")[1] for strategy in STRATEGIES), *CONFIGURED]
}

maybe = st.none() | st.floats(0, 1e6)
signals = st.builds(
    Signal,
    latency_ms=maybe,
    first_token_ms=maybe,
    peak_ms=maybe,
    age_s=maybe,
    in_flight=st.floats(0, 1e4),
    headroom=st.none() | st.floats(0, 1),
    requests_left=maybe,
)


def test_strategies_are_known_by_their_ids() -> None:
    """Every id that the configuration accepts has its strategy, and the other way round."""
    assert {strategy: kind.id for strategy, kind in STRATEGIES.items()} == {id_: id_ for id_ in OPTIONS}


@given(
    name=st.sampled_from(sorted(RANKS)),
    letters=st.lists(st.sampled_from("abcd"), unique=True).map("".join),
    known=st.dictionaries(st.sampled_from("abcd"), signals),
    request=st.builds(
        Request,
        tokens_in=st.integers(0, 10**6),
        tokens_out=st.integers(0, 10**6),
        is_stream=st.booleans(),
        session=st.sampled_from(["", "s1", "s2"]),
    ),
    turn=st.integers(0, 2**63),
    draw=st.floats(0, 1, exclude_max=True),
    current=st.sampled_from(["", "a", "b", "c", "d", "x"]),
    held=st.sampled_from(["", "a", "b", "x"]),
)
def test_every_ranking_holds_each_candidate_once(name: str, letters: str, **hints: Any) -> None:
    """A strategy orders; it neither drops nor invents, and says the same twice."""
    hints["signals"] = hints.pop("known")
    ranked = RANKS[name](letters, **hints)

    assert ranked == RANKS[name](letters, **hints)
    if name in EXCLUSIVE:
        assert set(ranked) <= set(letters)
        assert len(set(ranked)) == len(ranked)
    else:
        assert sorted(ranked) == sorted(letters)


@pytest.mark.parametrize("name", sorted(RANKS))
def test_without_candidates_nothing_is_ranked(name: str) -> None:
    """Everything may be on standby."""
    assert RANKS[name]("", turn=3, current="a", held="b") == ""
