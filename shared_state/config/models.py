"""Configured models: what each can do, what it costs, how much of it may be used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.config.values import Section, SizeBytes


class DeliveryConfig(Section):
    """Delivery modes that the model supports."""

    synchronous: bool = True
    streaming: bool = True
    batch: bool = False


class FeaturesConfig(Section):
    """What a request may ask of the model. ``false`` keeps requests that ask for it away from the model; what is neither
    said here nor known to the catalogue counts as unknown, and unknown is not refused."""

    tool_calling: bool | None = Field(None, description="`tools`, `functions`, messages of the role `tool`")
    vision: bool | None = Field(None, description="images and video in messages")
    json_mode: bool | None = Field(None, description="`response_format` of the type `json_object`")
    structured_output: bool | None = Field(None, description="`response_format` of the type `json_schema`")
    system_prompt: bool | None = Field(None, description="messages of the role `system` or `developer`")
    logprobs: bool | None = Field(None, description="`logprobs`, `top_logprobs`")
    reasoning: bool | None = Field(None, description="`reasoning_effort`")
    audio: bool | None = Field(None, description="sound in messages, `modalities` with `audio`")
    files: bool | None = Field(None, description="files in messages")
    grounding: bool | None = Field(None, description="`web_search_options`")
    fine_tunable: bool | None = Field(
        None, description="no request asks for it; `where` and `score` of pools can"
    )


class ConstraintsConfig(Section):
    """Sizes that the model cannot exceed; what is absent is not checked.

    A request is kept away from a model only if it cannot fit: its text has more than six characters, and more than one
    word, for each token of the window. Models that hold it even by a careful estimate are asked first.
    """

    context_window: int | None = Field(None, ge=1, description="tokens of input and output together")
    max_output_tokens: int | None = Field(None, ge=1, description="most that a request may ask for")
    max_images: int | None = Field(None, ge=0, description="images in one request")
    max_file_size: SizeBytes | None = Field(None, description="largest attachment that stands in the request")
    supported_languages: list[str] = Field(
        default_factory=list,
        description="codes such as `en`; for requests with a `language`, and for `where` and `score` of pools",
    )


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
