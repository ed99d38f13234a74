"""Configured providers: one entry is one account, and by default one quota domain."""

from __future__ import annotations

from pydantic import Field, field_validator

from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.config.values import DurationS, Secret, Section

_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "x-request-id",
    }
)


class TimeoutsConfig(Section):
    """The four clocks of an upstream call, in seconds."""

    connect: DurationS = Field(5.0, description="until the connection stands")
    first_token: DurationS = Field(30.0, description="until the first content arrives")
    idle: DurationS = Field(20.0, description="longest pause between two pieces of a stream")
    total: DurationS = Field(300.0, description="the whole call")


class ProviderConfig(Section):
    """A provider account."""

    enabled: bool = True
    connector: str | None = Field(None, description="catalogue id; default: the entry's own name")
    base_url: str | None = Field(None, description="endpoint with its version prefix, as in the OpenAI SDKs")
    api_key: Secret | None = None
    organization: str | None = Field(None, description="sent as OpenAI-Organization")
    headers: dict[str, Secret] = Field(default_factory=dict, description="extra headers sent upstream")
    region: str | None = Field(
        None,
        min_length=1,
        description="where the provider computes; for `x-modelmesh-regions` and dynamic pools",
    )
    responses: bool | None = Field(
        None,
        description="whether it has a Responses API (`/responses`); else what chat can express is translated; "
        "default: as its connector is known to",
    )
    messages: bool | None = Field(
        None,
        description="whether it has Anthropic's Messages API (`/messages`); else what chat can express is translated; "
        "default: as its connector is known to",
    )
    quota_domain: str | None = Field(
        None, description="entries with the same name share limits; default: own name"
    )
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, not {value!r}")
        return value.rstrip("/") if value else value

    @field_validator("headers")
    @classmethod
    def _clean_headers(cls, value: dict[str, Secret]) -> dict[str, Secret]:
        for name, secret in value.items():
            text = name + secret.get_secret_value()
            if name.lower() in _OURS:
                raise ValueError(f"header {name!r} is set by the router and cannot be configured")
            if not name or not text.isascii() or not text.isprintable():
                raise ValueError(f"header {name!r} holds characters that HTTP does not allow")
        return value
