"""What an answer used: tokens from its ``usage``, cost from the model's prices."""

from __future__ import annotations

from typing import Any, NamedTuple

from shared_state.config import PricingConfig

_NANO_PER_USD_PER_MILLION = 1000


class Usage(NamedTuple):
    """Tokens of an answer.

    Attributes:
        cached: the part of ``tokens_in`` that the provider had cached.
        is_estimated: counted here, not by the provider.
    """

    tokens_in: int
    tokens_out: int
    cached: int = 0
    is_estimated: bool = False


def usage_from(raw: Any) -> Usage | None:
    """Usage from the ``usage`` object of an OpenAI or Anthropic answer; None if it is not one."""
    if not isinstance(raw, dict):
        return None
    tokens_in, cached = _count(raw.get("prompt_tokens")), _cached(raw)
    if tokens_in is None:
        tokens_in = _count(raw.get("input_tokens"))
        if tokens_in is None:
            return None
        # Anthropic counts what it read from its cache, or wrote to it, apart from the rest.
        read = _count(raw.get("cache_read_input_tokens")) or 0
        tokens_in += read + (_count(raw.get("cache_creation_input_tokens")) or 0)
        cached = cached or read
    tokens_out = _count(raw.get("completion_tokens", raw.get("output_tokens"))) or 0
    return Usage(tokens_in, tokens_out, min(cached, tokens_in))


def cost_nano(usage: Usage, pricing: PricingConfig) -> int:
    """Cost in USD 1e-9."""
    cached_price = pricing.input if pricing.cached_input is None else pricing.cached_input
    per_million = (
        (usage.tokens_in - usage.cached) * pricing.input
        + usage.cached * cached_price
        + usage.tokens_out * pricing.output
    )
    return round(per_million * _NANO_PER_USD_PER_MILLION + pricing.per_request * 1e9)


def _cached(raw: dict[str, Any]) -> int:
    """Of the prompt's tokens those that were cached: OpenAI tells them in a section, DeepSeek beside the others."""
    details = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    told = details.get("cached_tokens") if isinstance(details, dict) else raw.get("prompt_cache_hit_tokens")
    return _count(told) or 0


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if is_count else None
