"""What an answer used: tokens from its ``usage``, cost from the model's prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared_state.config import PricingConfig

_NANO_PER_USD_PER_MILLION = 1000


@dataclass(frozen=True, slots=True)
class Usage:
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
    """Usage from an OpenAI ``usage`` object; None if it is not one."""
    if not isinstance(raw, dict):
        return None
    tokens_in = _count(raw.get("prompt_tokens", raw.get("input_tokens")))
    if tokens_in is None:
        return None
    tokens_out = _count(raw.get("completion_tokens", raw.get("output_tokens"))) or 0
    details = raw.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(tokens_in, tokens_out, min(cached or 0, tokens_in))


def cost_nano(usage: Usage, pricing: PricingConfig) -> int:
    """Cost in USD 1e-9."""
    cached_price = pricing.input if pricing.cached_input is None else pricing.cached_input
    per_million = (
        (usage.tokens_in - usage.cached) * pricing.input
        + usage.cached * cached_price
        + usage.tokens_out * pricing.output
    )
    return round(per_million * _NANO_PER_USD_PER_MILLION + pricing.per_request * 1e9)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if is_count else None
