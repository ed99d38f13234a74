"""Least busy: fewest attempts in flight."""

from __future__ import annotations

from node.routing.strategies import Signal
from tests.unit.node.routing.strategies.ranks import Ranks

BUSY = Ranks("least-busy")


def test_the_fewest_in_flight_come_first() -> None:
    """Over all nodes."""
    signals = {"a": Signal(in_flight=3), "b": Signal(in_flight=1), "c": Signal(in_flight=2)}

    assert {BUSY("abc", signals=signals, turn=turn) for turn in range(6)} == {"bca"}


def test_equally_busy_models_take_turns() -> None:
    """A quiet pool does not lean on its first member."""
    assert [BUSY("abc", turn=turn) for turn in range(3)] == ["abc", "bca", "cab"]
