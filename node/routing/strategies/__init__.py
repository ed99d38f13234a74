"""Selection strategies, one a file, by their catalogue id."""

from __future__ import annotations

from node.routing.strategies.base import Hints, Strategy
from node.routing.strategies.round_robin import RoundRobin
from node.routing.strategies.stick_until_failure import StickUntilFailure

STRATEGIES: dict[str, Strategy] = {s.id: s for s in (StickUntilFailure(), RoundRobin())}

__all__ = ["STRATEGIES", "Hints", "Strategy"]
