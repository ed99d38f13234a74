"""Limits that providers tell in their answers."""

from __future__ import annotations

import pytest

from node.providers.learned import Learned, fresh, learn, limit_headers, told_limits, wait_s


@pytest.mark.parametrize(
    ("dialect", "headers", "learned"),
    [
        (
            "openai",
            {
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            [Learned("rpm", 59, 1000), Learned("tpm", 149984, 360_000)],
        ),
        (
            "groq",
            {"x-ratelimit-remaining-requests": "14370", "x-ratelimit-reset-requests": "2m59.56s"},
            [Learned("rpd", 14370, 179_560)],
        ),
        ("openai", {"x-ratelimit-remaining-requests": "0"}, [Learned("rpm", 0, 0)]),
        ("openai", {}, []),
        ("openai", {"x-ratelimit-remaining-requests": "-3", "x-ratelimit-remaining-tokens": "many"}, []),
        ("openai", {"x-ratelimit-remaining-requests": "9" * 40}, []),
        (
            "openai",
            {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "soon"},
            [Learned("rpm", 5, 0)],
        ),
        (
            "openai",
            {"x-ratelimit-remaining-tokens": "900", "x-ratelimit-remaining-project-tokens": "300"},
            [Learned("tpm", 300, 0)],
        ),
        (
            "openai",
            {"x-ratelimit-remaining-tokens": "300", "x-ratelimit-remaining-project-tokens": "900"},
            [Learned("tpm", 300, 0)],
        ),
        (
            "openai",
            {"x-ratelimit-remaining-requests": "9990", "x-ratelimit-reset-requests": "8m38s"},
            [Learned("rpd", 9990, 518_000)],
        ),
        (
            "openai",
            {
                "x-ratelimit-remaining-tokens-per-day": "7",
                "x-ratelimit-remaining-requests-hour": "8",
                "x-ratelimit-remaining-input-tokens": "9",
            },
            [Learned("tpd", 7, 0), Learned("rph", 8, 0), Learned("itpm", 9, 0)],
        ),
        ("none", {"x-ratelimit-remaining-requests": "5"}, [Learned("rpm", 5, 0)]),
        (
            "groq",
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "24h"},
            [Learned("rpd", 0, 60_000)],
        ),
        (
            "cerebras",
            {"x-ratelimit-remaining-requests-day": "9", "x-ratelimit-reset-requests-day": "33011.4"},
            [Learned("rpd", 9, 3_600_000)],
        ),
    ],
)
def test_headers_are_understood_or_passed_over(dialect, headers, learned):
    """Each dialect counts its own windows; nonsense teaches nothing."""
    assert learn(headers, dialect=dialect) == learned


def test_old_news_teach_nothing():
    """What a head said counts only until its window resets, and never for long."""
    learned = [Learned("rpm", 0, 1000), Learned("tpm", 5, 60_000), Learned("rpd", 7, 0)]

    assert fresh(learned, age_s=0) == learned
    assert fresh(learned, age_s=2) == [Learned("tpm", 5, 58_000), Learned("rpd", 7, 0)]
    assert fresh(learned, age_s=10) == []


def test_only_headers_about_limits_are_read() -> None:
    """Most providers tell nothing, and that costs nothing."""
    raw = [(b"content-type", b"text/plain"), (b"x-ratelimit-remaining-requests", b"5"), (b"date", b"x")]

    assert limit_headers(raw) == {"x-ratelimit-remaining-requests": "5"}
    assert limit_headers(raw[:1]) == {}


def test_limits_themselves_are_told() -> None:
    """The strictest of a window; a limit of nothing is nonsense."""
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-limit-project-tokens": "60000",
        "x-ratelimit-limit-input-tokens": "0",
    }

    assert told_limits(headers, dialect="openai") == {"rpm": 60, "tpm": 60_000}
    assert told_limits(headers, dialect="groq") == {"rpd": 60, "tpm": 60_000}
    assert told_limits({}, dialect="openai") == {}


def test_the_longest_empty_window_says_how_long_to_wait() -> None:
    """Every window must have room; one without a time says nothing."""
    assert wait_s([Learned("rpm", 0, 1000), Learned("tpm", 0, 2500), Learned("rpd", 5, 9000)]) == 2.5
    assert wait_s([Learned("rpm", 0, 0), Learned("tpm", 5, 2500)]) is None
    assert wait_s([]) is None
