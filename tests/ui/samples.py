"""Answers of the operators' API in its own shapes, for pages of clusters that would be hard to bring about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shared_state.shapes.statistics import StatsMinute, StatsRow, StatsView
from shared_state.shapes.status import (
    BooksView,
    EventView,
    JobView,
    ModelView,
    NodeView,
    PanicView,
    PoolView,
    ProviderView,
    SchedulerView,
    StatusView,
    StoreView,
    WindowView,
)

#: As a rogue listing of a provider might name a model.
HOSTILE = "<img src=x onerror=\"window.hurt='yes'\"><script>window.hurt='yes'</script>"


def model(name: str, *, provider: str = "alpha", reason: str = "", **fields: Any) -> ModelView:
    """A model; with a reason it is on standby for a minute."""
    ill = {"status": "standby", "reason": reason, "trigger": "cooldown_expired", "until": time.time() + 60}
    well = {"status": "active", "reason": "", "until": None}
    window = WindowView(name="rpm", used=30, limit=60, resets=None)
    return ModelView.model_validate(
        {
            "id": name,
            "provider": provider,
            "domain": provider,
            "phase": "",
            "since": time.time() - 90,
            "fails": 0,
            "in_flight": 1,
            "requests": 1234,
            "failed": 0,
            "windows": [window],
            "availability": 0.99,
            "price_input": 0.15,
            "price_output": 0.6,
            **(ill if reason else well),
            **fields,
        }
    )


def provider(name: str, *, reason: str = "", models: int = 1) -> ProviderView:
    """A provider's account."""
    return ProviderView(
        id=name,
        domain=name,
        connector="openai-compatible.v1",
        status="standby" if reason else "active",
        reason=reason,
        until=time.time() + 600 if reason else None,
        models=models,
    )


def node(name: str, *, state: str = "alive", **fields: Any) -> NodeView:
    """A node in the registry."""
    given = {
        "id": name,
        "host": "10.0.0.7",
        "port": 8080,
        "pid": 4711,
        "started": time.time() - 9000,
        "seen_s": 0.4,
        "state": state,
        "version": "0.1.0",
        "config_version": "c0ffee12",
        "mode": "exact",
        "in_flight": 2,
        "config_number": 7,
        **fields,
    }
    return NodeView.model_validate(given)


def pool(name: str, members: Sequence[ModelView], *, has_panic: bool = False, **fields: Any) -> PoolView:
    """A pool of these models."""
    active = sum(member.status == "active" for member in members)
    given = {
        "id": name,
        "capability": None,
        "strategy": "modelmesh.round-robin.v1",
        "active": active,
        "standby": len(members) - active,
        "models": [member.id for member in members],
        "current": None,
        "panic": PanicView(since=time.time() - 40, asked=31, answered=12) if has_panic else None,
        **fields,
    }
    return PoolView.model_validate(given)


def status(models: Sequence[ModelView], **fields: Any) -> StatusView:
    """A cluster with these models in one pool, unless other pools are given."""
    names = sorted({model.provider for model in models})
    job = JobView(name="flush", interval_s=60, last_run=time.time() - 5, duration_ms=3, runs=12)
    given = {
        "mode": "exact",
        "config_version": "c0ffee12",
        "store": StoreView(url="redis://10.0.0.9:6379/0", connected=True, round_trip_ms=0.4),
        "scheduler": SchedulerView(leader="scheduler-1", token=3, since=time.time() - 800, jobs=[job]),
        "nodes": [node("node-1"), node("node-2")],
        "pools": [pool("chat", models)],
        "models": models,
        "providers": [provider(name) for name in names],
        "events": [],
        **fields,
    }
    return StatusView.model_validate(given)


def event(name: str, **fields: Any) -> EventView:
    """A model was taken out."""
    given = {
        "type": "model_deactivated",
        "domain": "alpha",
        "model": name,
        "provider": None,
        "reason": "outage",
    }
    return EventView.model_validate({"time": time.time(), "until": None, "node": "node-1", **given, **fields})


def books(*, balanced: bool = True) -> BooksView:
    """Books of nothing."""
    totals = {"admitted": 10, "settled": 9, "abandoned": 0, "in_flight": 1}
    return BooksView(balanced=balanced, time=time.time(), rows=[], totals=totals)


def stats(*names: str) -> StatsView:
    """An hour in which each of these was asked ten times a minute."""
    now, first = time.time(), (int(time.time()) // 60 - 59) * 60
    minutes = [
        StatsMinute(time=first + 60 * n, requests=10, failed=n % 2, tokens=900, cost_usd=0.01, p95_ms=300)
        for n in range(60)
    ]
    sums = {"requests": 600, "ok": 570, "failed": 30, "neutral": 0, "estimated": 0, "abandoned": 0}
    times = {"latency_ms": 120.0, "p50_ms": 100.0, "p95_ms": 300.0, "p99_ms": 400.0, "first_content_ms": 80.0}
    row = StatsRow.model_validate(
        {"name": "", "tokens_in": 30000, "tokens_out": 24000, "cost_usd": 0.6, **sums, **times}
    )
    rows = [row.model_copy(update={"name": name, "timeline": minutes}) for name in names]
    return StatsView(
        time=now,
        minutes=60,
        since=first,
        kept_minutes=60,
        by="pool",
        rows=rows,
        totals=row,
        timeline=minutes,
    )
