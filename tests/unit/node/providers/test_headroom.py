"""The share of its limits that a provider says is left."""

from __future__ import annotations

import pytest

from node.providers.headroom import Told, headroom_told
from node.providers.learned import limit_headers


def told(dialect: str = "openai", **said: str) -> Told | None:
    """``remaining_requests="5"`` as the header of that name."""
    raw = [(f"x-ratelimit-{name.replace('_', '-')}".encode(), text.encode()) for name, text in said.items()]
    return headroom_told(limit_headers(raw), dialect=dialect)


REQUESTS = {"limit_requests": "100", "remaining_requests": "60", "reset_requests": "40s"}
TOKENS = {"limit_tokens": "1000", "remaining_tokens": "100", "reset_tokens": "12s"}


def test_the_tightest_window_counts() -> None:
    """For as long as it says, else for a minute; of equals the one that lasts longer."""
    assert told(**REQUESTS) == Told(0.6, 40.0)
    assert told(**REQUESTS, **TOKENS) == Told(0.1, 12.0)
    assert told(limit_requests="10", remaining_requests="3") == Told(0.3, 60.0)
    assert told(**REQUESTS, limit_tokens="10", remaining_tokens="6") == Told(0.6, 60.0)


def test_each_vendor_has_its_own_words() -> None:
    """A limit and what remains of it must be of the same window."""
    assert told("groq", **REQUESTS) == Told(0.6, 40.0)
    assert told(limit_requests="100", remaining_tokens="5") is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"remaining_requests": "5"},
        {"limit_requests": "100"},
        {"limit_requests": "0", "remaining_requests": "0"},
        {"limit_requests": "many", "remaining_requests": "5"},
        {"limit_requests": "100", "remaining_requests": "-1"},
    ],
)
def test_nonsense_is_passed_over(said: dict[str, str]) -> None:
    """Nothing is told then."""
    assert told(**said) is None


def test_more_than_everything_is_everything() -> None:
    """Some providers grant bursts."""
    assert told(limit_requests="10", remaining_requests="12") == Told(1.0, 60.0)
