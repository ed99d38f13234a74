"""What a provider says about its own limits in the headers of an answer: it wins when it is stricter than our books."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from node.providers.retry_after import parse_reset

#: Dialect -> header family (``requests``, ``tokens``) -> the window that it counts. Groq's requests are those of a day.
_FAMILIES: Final[dict[str, dict[str, str]]] = {
    "groq": {"requests": "rpd", "tokens": "tpm"},
}
_USUAL: Final = {"requests": "rpm", "tokens": "tpm"}


_FRESH_MS: Final = 5000


class Learned(NamedTuple):
    """What remains of a window, by the provider's own count.

    Attributes:
        window: ``rpm``, ``rpd``, ``tpm`` ...
        reset_ms: how long until the provider counts afresh; 0 if it does not say.
    """

    window: str
    remaining: int
    reset_ms: int


def learn(headers: Mapping[str, str], *, dialect: str) -> list[Learned]:
    """What the ``x-ratelimit-*`` headers of an answer say; nonsense is passed over."""
    learned = []
    for family, window in _FAMILIES.get(dialect, _USUAL).items():
        remaining = headers.get(f"x-ratelimit-remaining-{family}")
        if remaining is None or not remaining.isdecimal() or len(remaining) > 12:
            continue
        reset_s = parse_reset(headers.get(f"x-ratelimit-reset-{family}", "")) or 0.0
        learned.append(Learned(window, int(remaining), round(reset_s * 1000)))
    return learned


def fresh(learned: list[Learned], *, age_s: float) -> list[Learned]:
    """What still holds after a while: a long stream settles when its head's words are long out of date."""
    age_ms = round(age_s * 1000)
    if not learned or age_ms <= 0:
        return learned
    return [
        Learned(window, remaining, max(0, reset_ms - age_ms))
        for window, remaining, reset_ms in learned
        if age_ms < _FRESH_MS and (reset_ms == 0 or age_ms < reset_ms)
    ]
