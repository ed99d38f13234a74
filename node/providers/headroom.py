"""The share of its limits that a provider says is left: for ranking where our own books know no limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from node.providers.learned import learn, told_limits

_USUAL_LIFE_S: Final = 60.0


class Told(NamedTuple):
    """What was told, and for how long it may hold."""

    share: float
    life_s: float


def headroom_told(headers: Mapping[str, str], *, dialect: str) -> Told | None:
    """The smallest share among the windows that an answer's headers (see `limit_headers`) tell in full; None if there is none."""
    limits = told_limits(headers, dialect=dialect)
    told = [
        Told(min(1.0, remaining / limits[window]), reset_ms / 1000 or _USUAL_LIFE_S)
        for window, remaining, reset_ms in learn(headers, dialect=dialect)
        if window in limits
    ]
    return min(told, key=lambda t: (t.share, -t.life_s), default=None)
