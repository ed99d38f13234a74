"""The share of its limits that a provider says is left: for ranking where our own books know no limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from node.providers.retry_after import parse_reset

_FAMILIES: Final = ("-requests", "-tokens", "")
_USUAL_LIFE_S: Final = 60.0
_MOST_DIGITS: Final = 12


class Told(NamedTuple):
    """What was told, and for how long it may hold."""

    share: float
    life_s: float


def headroom_told(headers: Mapping[str, str]) -> Told | None:
    """The smallest share among the ``x-ratelimit-*`` families of an answer; None if none is complete and sane."""
    told = [
        Told(
            min(1.0, remaining / limit),
            parse_reset(headers.get(f"x-ratelimit-reset{family}", "")) or _USUAL_LIFE_S,
        )
        for family in _FAMILIES
        if (remaining := _count(headers.get(f"x-ratelimit-remaining{family}"))) is not None
        and (limit := _count(headers.get(f"x-ratelimit-limit{family}")))
    ]
    return min(told, key=lambda t: (t.share, -t.life_s), default=None)


def _count(text: str | None) -> int | None:
    is_count = text is not None and text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if text is not None and is_count else None
