"""Selection strategies: pure orders over candidates."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.strategies import STRATEGIES, Hints
from tests.unit.node.house import mesh

STICKY = STRATEGIES["modelmesh.stick-until-failure.v1"]
ROUND = STRATEGIES["modelmesh.round-robin.v1"]
NAMES = ["a.m", "b.m", "c.m", "d.m"]
MODELS = tuple(mesh(*NAMES).models.values())
BY_ID = {model.id: model for model in MODELS}


def rank(strategy: str, ids: str, *, turn: int = 0, current: str = "") -> str:
    """Candidates as letters, ranked."""
    hints = Hints(MODELS, turn, f"{current}.m" if current else "")
    ranked = STRATEGIES[strategy].rank([BY_ID[f"{letter}.m"] for letter in ids], hints)
    return "".join(model.id[0] for model in ranked)


def test_strategies_are_known_by_their_ids() -> None:
    """The table and the strategies agree."""
    assert all(name == strategy.id for name, strategy in STRATEGIES.items())


@pytest.mark.parametrize(
    ("ids", "current", "ranked"),
    [
        ("abcd", "", "abcd"),
        ("abcd", "a", "abcd"),
        ("abcd", "c", "cdab"),
        ("abd", "c", "dab"),
        ("ab", "d", "ab"),
        ("dcba", "b", "bcda"),
        ("abcd", "unknown", "abcd"),
        ("c", "a", "c"),
        ("", "a", ""),
    ],
)
def test_stick_until_failure_keeps_the_current_one(ids: str, current: str, ranked: str) -> None:
    """The pointer's model first; when it is out, the next in pool order, around the end."""
    assert rank(STICKY.id, ids, current=current) == ranked


@pytest.mark.parametrize(
    ("turn", "ranked"), [(0, "abcd"), (1, "bcda"), (3, "dabc"), (4, "abcd"), (10**12 + 1, "bcda")]
)
def test_round_robin_begins_one_further_each_turn(turn: int, ranked: str) -> None:
    """The others follow in order: they are the fallback chain."""
    assert rank(ROUND.id, "abcd", turn=turn) == ranked


def test_round_robin_without_candidates_ranks_nothing() -> None:
    """Everything may be on standby."""
    assert rank(ROUND.id, "", turn=3) == ""


@given(
    phases=st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(1, 60)), min_size=1, max_size=6
    ),
    first=st.integers(0, 10**6),
)
def test_round_robin_is_even_while_membership_changes(phases: list[tuple[set[str], int]], first: int) -> None:
    """Within every stretch of unchanged membership no member is ahead of another by more than one turn."""
    turn = first
    for members, length in phases:
        ids = "".join(sorted(members))
        picks = Counter(rank(ROUND.id, ids, turn=turn + step)[0] for step in range(length))
        turn += length
        counts = [picks[letter] for letter in ids]
        assert max(counts) - min(counts) <= 1


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    ids=st.lists(st.sampled_from("abcd"), unique=True),
    turn=st.integers(0, 2**63),
    current=st.sampled_from(["", "a", "b", "c", "d", "x"]),
)
def test_every_ranking_holds_each_candidate_once(
    strategy: str, ids: list[str], turn: int, current: str
) -> None:
    """A strategy orders; it neither drops nor invents, and says the same twice."""
    letters = "".join(ids)
    ranked = rank(strategy, letters, turn=turn, current=current)

    assert sorted(ranked) == sorted(letters)
    assert ranked == rank(strategy, letters, turn=turn, current=current)
