"""What went through in the last minutes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared_state.recent import KEPT_MINUTES
from shared_state.shapes.row import Row

By = Literal["model", "pool", "provider"]


class StatsQuery(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    minutes: int = Field(5, ge=1, le=KEPT_MINUTES, description="how far back, the running minute included")
    by: By = Field("model", description="what rows are summed by")
    each: bool = Field(False, description="rows have a timeline of their own")


class StatsMinute(Row):
    """One minute, of all together or of one row."""

    time: float = Field(description="when it began")
    requests: int
    failed: int
    tokens: int = Field(0, description="in and out")
    cost_usd: float = 0.0
    p95_ms: float | None = None


class StatsRow(Row):
    """Sums over some minutes. Latencies are those of attempts that went well, read off buckets."""

    name: str
    requests: int = Field(
        description="attempts on providers; a request that failed over counts once for each"
    )
    ok: int
    failed: int
    neutral: int = Field(description="nobody's fault: the caller's own mistake, or it left")
    estimated: int = Field(description="of which tokens are estimates, for the provider told none")
    abandoned: int = Field(description="never settled, charged in full; not among the requests")
    tokens_in: int
    tokens_out: int
    cost_usd: float
    latency_ms: float | None = Field(description="mean")
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    first_content_ms: float | None = Field(description="mean time to the first content")
    timeline: list[StatsMinute] = Field(
        [], description="with ``each``: the minutes in which anything was counted, oldest first"
    )


class StatsView(Row):
    """Statistics of the last minutes, from Redis; older ones are in the scheduler's durable store."""

    time: float
    minutes: int
    since: float = Field(description="when the first of the minutes began")
    kept_minutes: int = Field(description="how far back Redis goes")
    by: By
    rows: list[StatsRow]
    totals: StatsRow
    timeline: list[StatsMinute] = Field(description="every minute, oldest first")
