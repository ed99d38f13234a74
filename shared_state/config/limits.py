"""Configured limits: how many requests, tokens and parallel calls an upstream allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from shared_state.config.values import DurationS, Section

#: Names of the counting windows: what is counted, then the period.
COUNTED: Final = {"r": "requests", "t": "tokens", "it": "input tokens", "ot": "output tokens"}
PERIODS: Final = {"m": "minute", "h": "hour", "d": "day", "w": "week", "M": "month"}

WindowAlgorithm = Literal["sliding", "calendar", "token_bucket"]


def known_zone(value: str | None) -> str | None:
    """The name of a time zone.

    Raises:
        ValueError: nobody knows it.
    """
    try:
        ZoneInfo(value or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {value!r}; use an IANA name such as Europe/Berlin") from error
    return value


class LimitsConfig(Section):
    """Limits of a model or of a provider account; what is absent is unlimited.

    Up to an hour windows slide: no interval of that length holds more than the limit. From a day on they follow the
    calendar of ``timezone``. ``algorithms`` chooses otherwise, window by window.
    """

    rpm: int | None = Field(None, ge=1, description="requests per minute")
    rph: int | None = Field(None, ge=1, description="requests per hour")
    rpd: int | None = Field(None, ge=1, description="requests per day")
    rpw: int | None = Field(None, ge=1, description="requests per week, from Monday")
    rpM: int | None = Field(None, ge=1, description="requests per month")
    tpm: int | None = Field(None, ge=1, description="tokens (input and output) per minute")
    tph: int | None = Field(None, ge=1, description="tokens per hour")
    tpd: int | None = Field(None, ge=1, description="tokens per day")
    tpw: int | None = Field(None, ge=1, description="tokens per week")
    tpM: int | None = Field(None, ge=1, description="tokens per month")
    itpm: int | None = Field(None, ge=1, description="input tokens per minute")
    itph: int | None = Field(None, ge=1, description="input tokens per hour")
    itpd: int | None = Field(None, ge=1, description="input tokens per day")
    otpm: int | None = Field(None, ge=1, description="output tokens per minute")
    otph: int | None = Field(None, ge=1, description="output tokens per hour")
    otpd: int | None = Field(None, ge=1, description="output tokens per day")
    usd_per_request: float | None = Field(None, gt=0, description="most that one request may cost")
    usd_per_day: float | None = Field(None, gt=0, description="money per day")
    usd_per_month: float | None = Field(None, gt=0, description="money per month")
    alert_threshold: float = Field(
        0.8, gt=0, le=1, description="share of a money limit at which an event is published"
    )
    usd_enforced: bool = Field(
        True, description="false: money per day and month is counted and told, never refused"
    )
    concurrency: int | None = Field(None, ge=1, description="calls in flight at once")
    min_delta: DurationS | None = Field(None, description="least time between two calls")
    timezone: str = Field("UTC", description="calendar of the day, week and month windows")
    reset_hour: int = Field(0, ge=0, le=23, description="local hour at which a day begins")
    reset_day: int = Field(1, ge=1, le=28, description="day at which a month begins")
    algorithms: dict[str, WindowAlgorithm] = Field(
        default_factory=dict,
        description="window -> sliding (exact), calendar (whole periods) or token_bucket (smooth, up to twice the limit "
        "in an interval that begins with a full bucket)",
    )

    _known_zone = field_validator("timezone")(known_zone)

    @model_validator(mode="after")
    def _algorithms_of_limits(self) -> LimitsConfig:
        idle = sorted(name for name in self.algorithms if name not in COUNTING or getattr(self, name) is None)
        if idle:
            raise ValueError(
                f"algorithms names {', '.join(idle)}, which {'is' if len(idle) == 1 else 'are'} not limited here"
            )
        return self


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit over a period of the calendar that takes its model out when it is reached.

    Attributes:
        reason: why the model is on standby then.
        most: money in USD.
        period: ``d`` or ``M``.
        returns: whether the model comes back with the next period.
    """

    reason: Literal["budget_exceeded", "token_limit", "request_limit"]
    most: float
    period: str
    timezone: str
    reset_hour: int
    reset_day: int
    returns: bool


class CappedLimits(LimitsConfig):
    """Limits of a model together with the caps of its pools, weightiest first."""

    caps: tuple[Cap, ...] = ()

    @classmethod
    def of(cls, limits: LimitsConfig, caps: Iterable[Cap]) -> CappedLimits:
        """The same limits under these caps."""
        return cls.model_construct(limits.model_fields_set, **{**dict(limits), "caps": tuple(caps)})


def caps_of(limits: LimitsConfig) -> tuple[Cap, ...]:
    """The caps among limits."""
    return limits.caps if isinstance(limits, CappedLimits) else ()


class BudgetConfig(Section):
    """Money, in the spelling of ModelMesh Lite; the same limits as ``usd_...`` under ``limits``."""

    daily_limit: float | None = Field(None, gt=0, description="USD per day")
    monthly_limit: float | None = Field(None, gt=0, description="USD per month")
    per_request_limit: float | None = Field(None, gt=0, description="USD for one request")
    alert_threshold: float = Field(
        0.8, gt=0, le=1, description="share of a limit at which an event is published"
    )
    enforce: bool = Field(
        True,
        description="false: money is counted and told, and neither refuses a call nor puts anything on standby",
    )

    @model_validator(mode="after")
    def _limit_of_use(self) -> BudgetConfig:
        if not self.enforce and self.per_request_limit is not None:
            raise ValueError("per_request_limit only refuses; with enforce: false it would do nothing")
        return self

    def as_limits(self) -> dict[str, float]:
        """What is set, under the names that ``LimitsConfig`` uses."""
        names = {
            "daily_limit": "usd_per_day",
            "monthly_limit": "usd_per_month",
            "per_request_limit": "usd_per_request",
            "alert_threshold": "alert_threshold",
            "enforce": "usd_enforced",
        }
        said = self.model_fields_set
        return {
            names[name]: value
            for name in names
            if name in said and (value := getattr(self, name)) is not None
        }


#: All counting windows, in the order in which they are checked.
COUNTING: Final = tuple(
    name
    for name in (f"{what}p{period}" for what in COUNTED for period in PERIODS)
    if name in LimitsConfig.model_fields
)
