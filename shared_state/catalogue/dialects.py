"""How vendors tell their own limits in the headers of an answer, as data.

Names, units and meanings are those that the vendors document or that their answers were seen to carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Gauge:
    """One window as headers tell it.

    Attributes:
        window: its name in our books; one that they do not know only tells how long to wait after a refusal.
        limit, remaining, reset: header names, in lower case.
        longer: the window that is meant if it takes more than a minute to fill up again.
    """

    window: str
    limit: str
    remaining: str
    reset: str
    longer: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family of headers.

    Attributes:
        refills: the windows fill up continuously: an empty one may serve again long before its reset, which is when it is full.
        timezone: calendar of the vendor's days, where it is documented.
    """

    gauges: tuple[Gauge, ...]
    refills: bool = False
    timezone: str = ""


def _gauge(window: str, pattern: str, longer: str = "") -> Gauge:
    limit, remaining, reset = (pattern.format(what) for what in ("limit", "remaining", "reset"))
    return Gauge(window, limit, remaining, reset, longer)


#: Names that say themselves what they count. Cerebras, Mistral, DigitalOcean and others spell them so.
_NAMED: Final = tuple(
    _gauge(f"{what}p{period}", f"x-ratelimit-{{}}-{word}-{per}{unit}")
    for what, words in (("r", ("requests", "req")), ("t", ("tokens",)))
    for word in words
    for period, unit in (("m", "minute"), ("h", "hour"), ("d", "day"), ("M", "month"))
    for per in ("", "per-")
)
_ANTHROPIC: Final = (
    _gauge("rpm", "anthropic-ratelimit-requests-{}"),
    _gauge("tpm", "anthropic-ratelimit-tokens-{}"),
    _gauge("itpm", "anthropic-ratelimit-input-tokens-{}"),
    _gauge("otpm", "anthropic-ratelimit-output-tokens-{}"),
)
#: OpenAI's. Its requests are those of a minute or, on some tiers, of a day.
_OPENAI: Final = (
    _gauge("rpm", "x-ratelimit-{}-requests", longer="rpd"),
    _gauge("tpm", "x-ratelimit-{}-tokens"),
    _gauge("tpm", "x-ratelimit-{}-project-tokens"),
    _gauge("itpm", "x-ratelimit-{}-input-tokens"),
    _gauge("otpm", "x-ratelimit-{}-output-tokens"),
    *_NAMED,
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "openai": Dialect((*_OPENAI, *_ANTHROPIC), refills=True),
        "groq": Dialect((_gauge("rpd", "x-ratelimit-{}-requests"), *_OPENAI[1:]), refills=True),
        "anthropic": Dialect(_ANTHROPIC, refills=True),
        # What counts "by size" counts tokens; older answers carry the minute without naming it.
        "mistral": Dialect(
            (
                *_NAMED,
                _gauge("tpm", "ratelimitbysize-{}"),
                _gauge("tpm", "x-ratelimitbysize-{}-minute"),
                _gauge("tpM", "x-ratelimitbysize-{}-month"),
            )
        ),
        # Counted by the second, and smoothed: nothing to book.
        "together": Dialect((_gauge("rps", "x-ratelimit-{}"), _gauge("tps", "x-tokenlimit-{}"))),
        # Told for its free models only, by the minute or the day; days are those of UTC.
        "openrouter": Dialect((_gauge("free requests", "x-ratelimit-{}"),), timezone="UTC"),
        "fireworks": Dialect(
            (
                _gauge("rpm", "x-ratelimit-{}-requests"),
                _gauge("itpm", "x-ratelimit-{}-tokens-prompt"),
                _gauge("otpm", "x-ratelimit-{}-tokens-generated"),
            )
        ),
        # No headers: it tells in the bodies of its errors. Its days end at midnight in California.
        "gemini": Dialect((), timezone="America/Los_Angeles"),
    }
)


def dialect_of(name: str) -> Dialect:
    """The dialect of that name; whoever documents none is read like OpenAI, and whatever names itself."""
    return DIALECTS.get(name, DIALECTS["openai"])
