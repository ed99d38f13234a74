"""Configured models: what each can do, what it costs, how much of it may be used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.config.values import Section


class DeliveryConfig(Section):
    """Delivery modes that the model supports."""

    synchronous: bool = True
    streaming: bool = True
    batch: bool = False


class FeaturesConfig(Section):
    """What a request may ask of the model; ``None`` means unknown, and unknown is not refused."""

    tool_calling: bool | None = None
    vision: bool | None = None
    json_mode: bool | None = None
    structured_output: bool | None = None
    system_prompt: bool | None = None
    logprobs: bool | None = None
    reasoning: bool | None = None
    audio: bool | None = None


class ConstraintsConfig(Section):
    """Sizes that the model cannot exceed, in tokens."""

    context_window: int | None = Field(None, ge=1)
    max_output_tokens: int | None = Field(None, ge=1)


class PricingConfig(Section):
    """Prices in USD per million tokens, and per request in USD."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)
    cached_input: float | None = Field(None, ge=0)
    per_request: float = Field(0.0, ge=0)


class ModelConfig(Section):
    """One model of one provider."""

    provider: str
    upstream: str | None = Field(
        None, description="name sent upstream; default: the id without its provider prefix"
    )
    capabilities: list[str] = Field(default_factory=list, description="aliases or full paths of leaves")
    delivery: DeliveryConfig = DeliveryConfig()
    features: FeaturesConfig = FeaturesConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()
    tokenizer: Literal["bytes", "tiktoken"] = Field(
        "bytes",
        description="how prompts are estimated for reservations: by the look of their bytes, or counted by tiktoken "
        "(an extra) if its vocabulary is on the machine",
    )
    pricing: PricingConfig = PricingConfig()
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
