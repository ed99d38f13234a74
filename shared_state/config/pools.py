"""Configured pools: which models serve a capability, and by which rules they rotate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator

from shared_state.config.limits import BudgetConfig, LimitsConfig, known_zone
from shared_state.config.strategies import (
    BalanceOptions,
    CustomOptions,
    PriorityOptions,
    RateLimitConfig,
    SessionOptions,
)
from shared_state.config.values import DurationS, Section


class MaintenanceConfig(Section):
    """When the models of the pool rest. A text alone is its ``cron``."""

    cron: str = Field(description="five fields as in crontab: when it begins")
    duration: DurationS = Field(3600.0, gt=0, description="how long it lasts")
    timezone: str | None = Field(
        None, description="IANA name; default: that of the model's limits, else of its provider's, else UTC"
    )

    _known_zone = field_validator("timezone")(known_zone)

    @field_validator("cron")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            if len(value.split()) != 5:
                raise CronSimError("must have five fields")
            CronSim(value, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"cron {value!r}: {error}; write for instance 0 3 * * 0") from error
        return value


class DeactivationConfig(Section):
    """When a model of the pool goes to standby.

    The caps count all calls to the model, whichever pool they come by, from the beginning of a period of its provider's
    calendar (``limits.timezone``, ``reset_hour``, ``reset_day``). A cap is never exceeded; it is reached when what is left
    would not carry another call like the last.
    """

    retry_limit: int = Field(3, ge=1, description="consecutive failures")
    error_rate_threshold: float = Field(0.5, gt=0, le=1, description="share of failures within error_window")
    error_window: DurationS = Field(60.0, gt=0)
    error_min_requests: int = Field(10, ge=1, description="outcomes before the error rate is judged")
    error_codes: list[int] = Field(
        default=[429, 500, 502, 503, 504],
        description="statuses that count; lost connections and timeouts always do",
    )
    request_limit: int | None = Field(None, ge=1, description="cap on requests to a model of the pool")
    token_limit: int | None = Field(None, ge=1, description="cap on its tokens")
    budget_limit: float | None = Field(None, gt=0, description="cap on its cost, in USD")
    quota_window: Literal["daily", "monthly"] | None = Field(
        None,
        description="period of the three caps; default: that of recovery.quota_reset_schedule, else monthly",
    )
    maintenance_window: MaintenanceConfig | None = None
    max_ejected: float = Field(
        1.0,
        gt=0,
        le=1,
        description="at most this share of the members, but always one, stays away for errors or an outage",
    )
    panic_threshold: float | None = Field(
        0.0,
        ge=0,
        lt=1,
        description="when no larger share of two or more members than this is well, all that are away for errors or an outage "
        "are tried anyway; null: never",
    )

    @field_validator("maintenance_window", mode="before")
    @classmethod
    def _cron_alone(cls, value: Any) -> Any:
        return {"cron": value} if isinstance(value, str) else value

    @property
    def has_caps(self) -> bool:
        """Whether any cap is set."""
        return bool(self.request_limit or self.token_limit or self.budget_limit)


class RecoveryConfig(Section):
    """How a model of the pool comes back."""

    cooldown: DurationS = Field(60.0, gt=0)
    max_cooldown: DurationS = Field(1800.0, gt=0)
    probe_on_start: bool = Field(
        False, description="a scheduler that takes the lead probes what waits for a trial, once, at once"
    )
    probe_interval: DurationS | None = Field(
        None,
        description="a model that is due, and that no request has tried for so long, is probed, and again every so often; "
        "0: requests alone try it; default: scheduler.probe_interval",
    )
    on_quota_reset: bool = Field(
        True,
        description="a spent quota or cap comes back with its period; false: an operator brings it back",
    )
    quota_reset_schedule: Literal["daily_utc", "monthly"] | None = Field(
        None,
        description="when caps begin anew, and a spent quota whose provider names no time; daily_utc: at midnight UTC, "
        "whatever the provider's calendar",
    )
    ramp: list[float] = Field(
        default=[0.1, 0.3, 1.0], description="shares of traffic after a successful trial"
    )

    @model_validator(mode="after")
    def _sane(self) -> RecoveryConfig:
        if self.max_cooldown < self.cooldown:
            raise ValueError("max_cooldown must not be shorter than cooldown")
        if not self.ramp or any(not 0 < share <= 1 for share in self.ramp):
            raise ValueError("ramp must hold shares greater than 0 and at most 1")
        if self.ramp[-1] != 1.0 or list(self.ramp) != sorted(self.ramp):
            raise ValueError("ramp must rise and end at 1.0")
        return self


class RetryBudgetConfig(Section):
    """How many retries all nodes together make in a pool, counted over ten seconds: as `share` allows, or as many as there were good
    answers, up to `floor`; whichever is more.

    A retry is every attempt of a request behind its first, whichever model it goes to, if the one before may have reached its
    provider. With the budget used up a failure is answered at once.
    """

    share: float = Field(0.1, ge=0, le=10, description="retries for each request")
    floor: float = Field(
        10.0,
        ge=0,
        le=1e6,
        description="retries a second that good answers may pay for; a fifth of it is always allowed",
    )


class RetryConfig(Section):
    """What follows a failed attempt."""

    max_attempts: int = Field(3, ge=1, description="attempts on the same target before the next one")
    backoff: Literal["fixed", "exponential_jitter", "retry_after"] = "exponential_jitter"
    initial_delay: DurationS = 0.5
    max_delay: DurationS = 10.0
    scope: Literal["same_model", "same_provider", "any"] = "same_model"
    honor_retry_after: bool = True
    retryable_codes: list[int] = Field(default=[429, 500, 502, 503, 504])
    non_retryable_codes: list[int] = Field(default=[400, 401, 403])
    deadline: DurationS = Field(120.0, gt=0, description="the whole request, all attempts together")
    maybe_billed: Literal["any", "other_model", "other_account", "never"] = Field(
        "other_account",
        description="where to try again after an attempt that may have been billed though its answer was not seen: "
        "as after any failure, on another model, on another account only, nowhere",
    )
    budget: RetryBudgetConfig = RetryBudgetConfig()


class HedgeConfig(Section):
    """A second attempt beside a slow one, on the next candidate; whoever has content first answers, the other is ended and settled.

    Only within the retry budget, and if it is admitted everywhere like any attempt: by its model, and by every gate that its request passes.
    """

    after: Literal["p95"] | DurationS = Field(
        "p95",
        description="time without content; `p95`: what 19 of 20 answers of that model stayed below, on all nodes",
    )
    max_share: float = Field(0.05, gt=0, le=1, description="most hedges for each request")

    @model_validator(mode="after")
    def _sane(self) -> HedgeConfig:
        if self.after != "p95" and self.after <= 0:
            raise ValueError("after must be longer than nothing")
        return self


class FallbacksConfig(Section):
    """Where a call goes on, within its deadline and attempts, after a refusal that others need not share.

    Models and pools, in order; without any the caller gets the provider's own error. A request for one exact model
    stays with it.
    """

    context_window: list[str] = Field(
        default_factory=list,
        description="after `context_length_exceeded`, or at once if the text fits nowhere",
    )
    content_policy: list[str] = Field(
        default_factory=list, description="after a provider has declined the content"
    )


class MembersConfig(Section):
    """Who belongs to a pool, and who of them is chosen."""

    capability: str | None = None
    models: list[str] = Field(default_factory=list)
    providers: list[str] = Field(default_factory=list)
    excluded_providers: list[str] = Field(default_factory=list)
    where: str | None = Field(
        None,
        description="expression; of the models of the capability those become members for which it holds",
    )
    score: str | None = Field(
        None,
        description="expression or `package.module:function`; the highest is asked first, 0 or less is no member; "
        "in place of `strategy`",
    )
    strategy: str = Field(
        "modelmesh.stick-until-failure.v1",
        description="an id of the catalogue, its short name, a class path `package.module:Class`, or an entry point",
    )


class PoolConfig(CustomOptions, SessionOptions, BalanceOptions, PriorityOptions, MembersConfig):
    """A pool; without ``capability`` and ``models`` its own name is the capability.

    A dynamic pool chooses its members by ``where`` and their order by ``score``, both over what is known of a model.
    Without ``capability``, and with a name that is none, every model may become a member.
    """

    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    on_budget_exceeded: Literal["rotate", "error"] | None = Field(
        None,
        description="when money is spent: rotate tries the next model or pool, error answers at once; "
        "default: rotate for money of models and accounts, error for the pool's own",
    )
    rate_limit: RateLimitConfig | None = Field(
        None, description="see below; unset, only rate-limit-aware keeps away from limits, by the defaults"
    )
    provider_deactivation: Literal["on_auth_failure", "on_api_outage"] | None = Field(
        None,
        description="what alone takes out the whole account, where otherwise both do; of the other the model suffers alone",
    )
    provider_recovery: Literal["on_probe_success", "on_manual"] = Field(
        "on_probe_success", description="how an account comes back after refused credentials or an outage"
    )
    deactivation: DeactivationConfig = DeactivationConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    retry: RetryConfig = RetryConfig()
    fallbacks: FallbacksConfig = FallbacksConfig()
    hedge: HedgeConfig | None = Field(None, description="off unless it is there; `{}` for its defaults")

    @model_validator(mode="after")
    def _one_period(self) -> PoolConfig:
        window, schedule = self.deactivation.quota_window, self.recovery.quota_reset_schedule
        if window and schedule and not schedule.startswith(window):
            raise ValueError(
                f"deactivation.quota_window is {window}, but recovery.quota_reset_schedule is {schedule}"
            )
        if window and not self.deactivation.has_caps:
            raise ValueError("quota_window is of no use without request_limit, token_limit or budget_limit")
        return self
