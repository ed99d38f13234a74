"""Configured limits: how many requests, tokens and parallel calls an upstream allows."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from shared_state.config.values import DurationS, Section


class LimitsConfig(Section):
    """Limits of a model or of a provider account; what is absent is unlimited.

    Minute and hour windows slide: no interval of that length holds more than the limit. Day, week
    and month windows follow the calendar of ``timezone``.
    """

    rpm: int | None = Field(None, ge=1, description="requests per minute")
    rph: int | None = Field(None, ge=1, description="requests per hour")
    rpd: int | None = Field(None, ge=1, description="requests per calendar day")
    rpw: int | None = Field(None, ge=1, description="requests per calendar week, from Monday")
    rpM: int | None = Field(None, ge=1, description="requests per calendar month")
    tpm: int | None = Field(None, ge=1, description="tokens (input and output) per minute")
    tph: int | None = Field(None, ge=1, description="tokens per hour")
    tpd: int | None = Field(None, ge=1, description="tokens per calendar day")
    tpw: int | None = Field(None, ge=1, description="tokens per calendar week, from Monday")
    tpM: int | None = Field(None, ge=1, description="tokens per calendar month")
    concurrency: int | None = Field(None, ge=1, description="calls in flight at once")
    min_delta: DurationS | None = Field(None, description="least time between two calls")
    timezone: str = Field("UTC", description="calendar of the day, week and month windows")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"unknown time zone {value!r}; use an IANA name such as Europe/Berlin"
            ) from error
        return value
