"""Live facts for the scores of dynamic pools, and what stands in for those that nobody knows."""

from __future__ import annotations

from typing import Final

from node.signals import Signal
from shared_state.expressions import Facts

#: A model that nobody has measured of late is the quickest: so it is asked, and then it is known.
_UNMEASURED_MS: Final = 1.0
#: What was measured longer ago says nothing of now; a model that was slow once would never be asked again.
_OLD_S: Final = 600.0


def signal_facts(signal: Signal) -> Facts:
    """What a score may know of how a model does over the cluster; each is a number."""
    is_old = signal.age_s is None or signal.age_s > _OLD_S
    return {
        "latency_ms": _time(None if is_old else signal.latency_ms),
        "first_token_ms": _time(None if is_old else signal.first_token_ms),
        "in_flight": signal.in_flight,
        "headroom": 1.0 if signal.headroom is None else signal.headroom,
    }


def _time(known_ms: float | None) -> float:
    return _UNMEASURED_MS if known_ms is None else known_ms
