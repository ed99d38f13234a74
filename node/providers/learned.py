"""What a provider says about its own limits in the headers of an answer: it wins when it is stricter than our books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from node.providers.retry_after import parse_reset
from shared_state.catalogue.dialects import DIALECTS, Gauge, dialect_of

_FRESH_MS: Final = 5000
#: An empty window keeps a model waiting for at most so long; where windows fill up continuously, for a minute.
_LONGEST_MS: Final = 3_600_000
_REFILLING_MS: Final = 60_000
_MINUTE_MS: Final = 60_000
_MOST_DIGITS: Final = 12
#: Every header of interest has this in its name.
_MARK: Final = b"limit"
_DEFAULT: Final = "openai"
#: Dialect -> header -> gauge, for what remains and for the limits themselves.
_REMAINING: Final = {
    name: {gauge.remaining: gauge for gauge in spoken.gauges} for name, spoken in DIALECTS.items()
}
_LIMIT: Final = {name: {gauge.limit: gauge for gauge in spoken.gauges} for name, spoken in DIALECTS.items()}


class Learned(NamedTuple):
    """What remains of a window, by the provider's own count.

    Attributes:
        window: ``rpm``, ``rpd``, ``tpm`` ...
        reset_ms: how long until the provider counts afresh; 0 if it does not say.
    """

    window: str
    remaining: int
    reset_ms: int


def limit_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Of an answer's headers (names in lower case) those that may tell a limit; empty for most providers."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw if _MARK in name}


def learn(headers: Mapping[str, str], *, dialect: str) -> list[Learned]:
    """What remains by the headers of an answer (names in lower case); nonsense is passed over.

    Of several headers for one window the strictest counts.
    """
    spoken, found = dialect_of(dialect), dict[str, Learned]()
    for gauge, text in _read(headers, _REMAINING, dialect):
        remaining = _count(text)
        if remaining is None:
            continue
        reset_ms = _reset_ms(gauge, headers)
        window = _window(gauge, reset_ms)
        reset_ms = min(reset_ms, _REFILLING_MS if spoken.refills and remaining == 0 else _LONGEST_MS)
        known = found.get(window)
        if known is None or (remaining, -reset_ms) < (known.remaining, -known.reset_ms):
            found[window] = Learned(window, remaining, reset_ms)
    return list(found.values())


def told_limits(headers: Mapping[str, str], *, dialect: str) -> dict[str, int]:
    """The limits themselves, window by window."""
    found: dict[str, int] = {}
    for gauge, text in _read(headers, _LIMIT, dialect):
        limit = _count(text)
        if limit:
            window = _window(gauge, _reset_ms(gauge, headers))
            found[window] = min(limit, found.get(window, limit))
    return found


def wait_s(learned: Sequence[Learned]) -> float | None:
    """How long an answer's empty windows say to wait; None if none is empty or says so."""
    waits = [reset_ms for _, remaining, reset_ms in learned if remaining == 0 and reset_ms > 0]
    return max(waits) / 1000 if waits else None


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


def _read(
    headers: Mapping[str, str], table: Mapping[str, Mapping[str, Gauge]], dialect: str
) -> list[tuple[Gauge, str]]:
    gauges = table.get(dialect, table[_DEFAULT])
    return [(gauges[name], text) for name, text in headers.items() if name in gauges]


def _reset_ms(gauge: Gauge, headers: Mapping[str, str]) -> int:
    return round((parse_reset(headers.get(gauge.reset, "")) or 0.0) * 1000)


def _window(gauge: Gauge, reset_ms: int) -> str:
    return gauge.longer if gauge.longer and reset_ms > _MINUTE_MS else gauge.window


def _count(text: str) -> int | None:
    text = text.strip()
    is_count = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_count else None
