"""How much of every quota is used, what remains, and when it runs dry."""

from __future__ import annotations

from pydantic import Field

from shared_state.shapes.row import Row


class WindowUsage(Row):
    """A window of a model or an account; money in USD."""

    name: str
    unit: str = Field(
        description="requests, tokens, input_tokens, output_tokens or usd; with _per_minute and so on behind it"
    )
    algorithm: str = Field(description="sliding, calendar, token_bucket or concurrency")
    used: float
    held: float = Field(
        description="what nodes hold as leases, for an outage of the store; part of nothing else"
    )
    limit: float
    remaining: float = Field(description="limit without what is used and held: what can be admitted now")
    share: float = Field(description="the part that is taken, 0 to 1")
    resets: float | None = Field(
        description="the calendar's next period, or when a full window has room again"
    )
    rate: float = Field(description="what is used per second now")
    dry_s: float | None = Field(description="seconds until it is full at this rate; null if it lasts")


class ModelUsage(Row):
    """A model's own windows."""

    id: str
    status: str
    windows: list[WindowUsage]


class AccountUsage(Row):
    """A quota domain: the account's windows, and those of its models."""

    id: str
    providers: list[str]
    windows: list[WindowUsage]
    models: list[ModelUsage]


class QuotaUsage(Row):
    """One kind of quota of a whole pool, each account and model counted once; money in USD."""

    unit: str = Field(description="as requests_per_day")
    limit: float | None = Field(description="of the active members together; null if one is not limited so")
    remaining: float | None = Field(description="what they can still take; null if that is not limited")
    resting: float | None = Field(
        description="what members on standby could take besides; null if not limited"
    )
    share: float = Field(description="the part that is taken, 0 to 1")
    rate: float = Field(description="what is used per second now")
    dry_s: float | None = Field(description="seconds until nothing remains at this rate; null if it lasts")


class PoolUsage(Row):
    """A pool's free accounts as one quota."""

    id: str
    active: int
    members: int
    accounts: list[str]
    quotas: list[QuotaUsage]
    dry_s: float | None = Field(description="seconds until the first of its quotas is dry; null if all last")
    dry_by: str | None = Field(description="the unit of that quota")


class UsageView(Row):
    """What is used of every quota, and what is left."""

    time: float
    pools: list[PoolUsage]
    accounts: list[AccountUsage]
