"""Stick until failure: one pointer."""

from __future__ import annotations

import pytest

from tests.unit.node.routing.strategies.ranks import Ranks

STICKY = Ranks("stick-until-failure")


@pytest.mark.parametrize(
    ("letters", "current", "ranked"),
    [
        ("abcd", "", "abcd"),
        ("abcd", "a", "abcd"),
        ("abcd", "c", "cdab"),
        ("abd", "c", "dab"),
        ("ab", "d", "ab"),
        ("dcba", "b", "bcda"),
        ("abcd", "unknown", "abcd"),
        ("c", "a", "c"),
    ],
)
def test_it_keeps_the_current_one(letters: str, current: str, ranked: str) -> None:
    """The pointer's model first; when it is out, the next in pool order, around the end."""
    assert STICKY(letters, current=current) == ranked
