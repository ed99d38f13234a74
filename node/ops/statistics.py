"""Statistics as operators see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from shared_state.recent import KEPT_MINUTES, Recent
from shared_state.shapes.statistics import By, StatsMinute, StatsQuery, StatsRow, StatsView
from shared_state.statistics import MinuteRow
from shared_state.summary import Summary, summarise
from shared_state.topology import Topology

_NANO_PER_USD = 10**9


def view_statistics(recent: Recent, asked: StatsQuery, topology: Topology) -> StatsView:
    """The minutes that were asked for, summed up; a model that is configured no more has the provider ``""``."""
    by_minute = summarise(recent.rows, lambda row: row.minute)
    key = _key(asked.by, topology)
    timelines = _timelines(recent, key) if asked.each else {}
    minutes = range(recent.first_minute, recent.first_minute + asked.minutes)
    nothing = Summary({})
    return StatsView(
        time=recent.now_s,
        minutes=asked.minutes,
        since=recent.first_minute * 60,
        kept_minutes=KEPT_MINUTES,
        by=asked.by,
        rows=[
            _row(str(name), s, timelines.get(str(name))) for name, s in summarise(recent.rows, key).items()
        ],
        totals=_row("", summarise(recent.rows).get("", nothing)),
        timeline=[_minute(minute, by_minute.get(minute, nothing)) for minute in minutes],
    )


def _key(by: By, topology: Topology) -> Callable[[MinuteRow], str]:
    def provider(row: MinuteRow) -> str:
        known = topology.models.get(row.model)
        return known.provider if known else ""

    keys: dict[By, Callable[[MinuteRow], str]] = {
        "model": lambda row: row.model,
        "pool": lambda row: row.pool,
        "provider": provider,
    }
    return keys[by]


def _timelines(recent: Recent, key: Callable[[MinuteRow], str]) -> dict[str, list[StatsMinute]]:
    """The minutes of each row in which anything was counted: as many entries as were read, however many rows there could be."""
    parts: defaultdict[str, list[MinuteRow]] = defaultdict(list)
    for row in recent.rows:
        parts[key(row)].append(row)
    return {
        name: [
            _minute(minute, sums)
            for minute, sums in sorted(
                (int(m), s) for m, s in summarise(rows, lambda row: row.minute).items()
            )
        ]
        for name, rows in parts.items()
    }


def _row(name: str, sums: Summary, timeline: list[StatsMinute] | None = None) -> StatsRow:
    return StatsRow(
        name=name,
        requests=sums["attempts"],
        ok=sums["ok"],
        failed=sums["failed"],
        neutral=sums["neutral"],
        estimated=sums["estimated"],
        abandoned=sums["abandoned"],
        tokens_in=sums["tokens_in"],
        tokens_out=sums["tokens_out"],
        cost_usd=sums["cost"] / _NANO_PER_USD,
        latency_ms=sums.mean_ms("latency_ms"),
        p50_ms=sums.latency_ms(0.50),
        p95_ms=sums.latency_ms(0.95),
        p99_ms=sums.latency_ms(0.99),
        first_content_ms=sums.mean_ms("first_token_ms"),
        timeline=timeline or [],
    )


def _minute(minute: int, sums: Summary) -> StatsMinute:
    return StatsMinute(
        time=minute * 60,
        requests=sums["attempts"],
        failed=sums["failed"],
        tokens=sums["tokens_in"] + sums["tokens_out"],
        cost_usd=sums["cost"] / _NANO_PER_USD,
        p95_ms=sums.latency_ms(0.95),
    )
