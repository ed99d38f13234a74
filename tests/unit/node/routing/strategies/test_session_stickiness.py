"""Session stickiness: the session's model, as long as it is a candidate."""

from __future__ import annotations

from collections import Counter

from node.routing.strategies import Request
from tests.unit.node.routing.strategies.ranks import Ranks

LOOSE = Ranks("session-stickiness")
STRICT = Ranks("session-stickiness", affinity_mode="strict")
SESSIONS = [Request(session=f"session {number}") for number in range(400)]


def test_a_session_keeps_its_model() -> None:
    """The others are its fallback chain."""
    assert {LOOSE(request=session, held="c")[0] for session in SESSIONS} == {"c"}
    assert sorted(LOOSE(request=SESSIONS[0], held="c")) == list("abcd")


def test_new_sessions_are_spread() -> None:
    """By nothing but their name, so that all nodes guess alike."""
    counts = Counter(LOOSE(request=session)[0] for session in SESSIONS)

    assert min(counts.values()) > 60
    assert len(counts) == 4


def test_little_moves_when_membership_changes() -> None:
    """Only the sessions of a model that left find another, spread over all that stay; only those come back."""
    before = {session: LOOSE(request=session)[0] for session in SESSIONS}
    after = {session: LOOSE("abd", request=session)[0] for session in SESSIONS}
    moved = {session for session in SESSIONS if before[session] != after[session]}

    assert moved == {session for session in SESSIONS if before[session] == "c"}
    assert set(Counter(after[session] for session in moved)) == set("abd")


def test_priority_lists_win_over_the_spread() -> None:
    """New sessions go to the first of them."""
    ordered = Ranks("session-stickiness", model_priority=["d.m"])

    assert {ordered("dabc", request=session)[0] for session in SESSIONS} == {"d"}


def test_without_a_session_the_pool_order_holds() -> None:
    """There is nothing to stick to."""
    assert LOOSE() == "abcd"
    assert STRICT() == "abcd"


def test_a_strict_session_has_no_other_model() -> None:
    """It gets its model or nothing; one whose model left the pool for good begins anew."""
    assert STRICT(request=SESSIONS[0], held="c") == "c"
    assert STRICT("abd", request=SESSIONS[0], held="c") == ""
    assert sorted(STRICT(request=SESSIONS[0], held="gone")) == list("abcd")
