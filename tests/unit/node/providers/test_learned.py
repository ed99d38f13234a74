"""Limits that providers tell in their answers."""

from __future__ import annotations

import pytest

from node.providers.learned import Learned, fresh, learn


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
