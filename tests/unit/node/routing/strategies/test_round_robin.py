"""Round robin: one further each turn, or by weights."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node.routing.strategies.ranks import Ranks

PLAIN = Ranks("round-robin")
WEIGHTED = Ranks("round-robin", weights={"a.m": 3, "d.m": 0})


@pytest.mark.parametrize(
    ("turn", "ranked"), [(0, "abcd"), (1, "bcda"), (3, "dabc"), (4, "abcd"), (10**12 + 1, "bcda")]
)
def test_it_begins_one_further_each_turn(turn: int, ranked: str) -> None:
    """The others follow in order: they are the fallback chain."""
    assert PLAIN(turn=turn) == ranked


@given(
    phases=st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(1, 60)), min_size=1, max_size=6
    ),
    first=st.integers(0, 10**6),
)
def test_it_is_even_while_membership_changes(phases: list[tuple[set[str], int]], first: int) -> None:
    """Within every stretch of unchanged membership no member is ahead of another by more than one turn."""
    turn = first
    for members, length in phases:
        letters = "".join(sorted(members))
        picks = Counter(PLAIN(letters, turn=turn + step)[0] for step in range(length))
        turn += length
        counts = [picks[letter] for letter in letters]
        assert max(counts) - min(counts) <= 1


def test_priority_lists_say_where_the_round_begins() -> None:
    """They order the pool for every strategy."""
    ordered = Ranks("round-robin", model_priority=["c.m"], provider_priority=["d"])

    assert [spec.id[0] for spec in ordered.pool.models] == ["c", "d", "a", "b"]


def test_weights_are_kept_in_every_period() -> None:
    """Three turns for one, one each for the unnamed, none for a weight of 0, which stays the last resort."""
    assert "".join(WEIGHTED(turn=turn)[0] for turn in range(5)).count("a") == 3
    assert Counter(WEIGHTED(turn=turn)[0] for turn in range(500)) == {"a": 300, "b": 100, "c": 100}
    assert {WEIGHTED(turn=turn)[-1] for turn in range(5)} == {"d"}


def test_weights_are_spread_over_the_period() -> None:
    """Smooth: the heavy one does not have all its turns in a row."""
    picks = "".join(WEIGHTED(turn=turn)[0] for turn in range(10))

    assert "aaa" not in picks
