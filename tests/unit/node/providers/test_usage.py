"""Tokens and money of an answer."""

from __future__ import annotations

import pytest

from node.providers.usage import Usage, cost_nano, usage_from
from shared_state.config import PricingConfig


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0)),
        ({"prompt_tokens": 7, "completion_tokens": None}, Usage(7, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 0, cached=4)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}, Usage(9, 0, cached=9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None}, Usage(9, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "4"}}, Usage(9, 0)),
        (
            {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
            Usage(9, 0, cached=4),
        ),
        (
            {"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 4}},
            Usage(9, 1, cached=4),
        ),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20},
            Usage(129, 0, cached=100),
        ),
        ({"prompt_tokens": 109, "cache_read_input_tokens": 100}, Usage(109, 0)),
        ({"input_tokens": 9, "cache_read_input_tokens": -1}, Usage(9, 0)),
        ({}, None),
        ({"completion_tokens": 3}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "7"}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 1.5}, None),
        ({"prompt_tokens": 1 << 40}, None),
        (None, None),
        ([7, 3], None),
        ("7", None),
    ],
)
def test_usage_is_read_or_refused(raw: object, usage: Usage | None) -> None:
    """Both families of names; what is no count is no usage."""
    assert usage_from(raw) == usage


@pytest.mark.parametrize(
    ("usage", "pricing", "nano"),
    [
        (Usage(0, 0), {}, 0),
        (Usage(1_000_000, 0), {"input": 0.15}, 150_000_000),
        (Usage(0, 1_000_000), {"output": 0.6}, 600_000_000),
        (Usage(1, 1), {"input": 0.15, "output": 0.6}, 750),
        (Usage(1000, 0, cached=600), {"input": 2.0, "cached_input": 0.5}, 1_100_000),
        (Usage(1000, 0, cached=600), {"input": 2.0}, 2_000_000),
        (Usage(0, 0), {"per_request": 0.005}, 5_000_000),
    ],
)
def test_cost_follows_the_prices(usage: Usage, pricing: dict[str, float], nano: int) -> None:
    """Per million tokens, cached input at its own price, and per request; in billionths of a dollar."""
    assert cost_nano(usage, PricingConfig(**pricing)) == nano
