"""What nodes tell of the scheduler, which has no port of its own: its lead, its jobs, its targets of events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from node.observe.clockwork import families_of, read_clockwork
from scheduler.reports import Reports
from shared_state.leadership import hold_lead, release_lead
from shared_state.marks import Mark, keep_mark
from shared_state.store import Store


async def told(store: Store, *targets: str) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    clockwork = await read_clockwork(store, targets, now_ms=round(time.time() * 1000))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families_of(clockwork)
        for sample in family.samples
    }


async def test_the_lead_and_late_jobs_show(open_store: Callable[..., Store]) -> None:
    """A job that should have run a minute ago is a minute late, whoever has died; its failures are counted."""
    store = open_store()
    await hold_lead(store, "a", lease_s=30)
    reports = Reports(store, [("flush", 60.0), ("reaper", 1.0)])
    reports.ended("flush", last_run=time.time() - 120, duration_ms=1, next_run=time.time() - 60)
    reports.failed("flush", OSError("no space"))
    reports.ended("reaper", last_run=time.time(), duration_ms=1, next_run=time.time() + 60)
    await reports.publish()
    seen = await told(store)
    await release_lead(store, "a")
    later = await told(store)

    assert seen["modelmesh_scheduler_leading",] == 1
    assert later["modelmesh_scheduler_leading",] == 0
    assert 59 < seen["modelmesh_job_overdue_seconds", "flush"] < 90
    assert seen["modelmesh_job_overdue_seconds", "reaper"] == 0
    assert (seen["modelmesh_job_failing", "flush"], seen["modelmesh_job_failures_total", "flush"]) == (1, 1)


async def test_a_job_that_is_no_more_is_not_late_for_ever(open_store: Callable[..., Store]) -> None:
    """The next leader removes the reports of what it has not."""
    store = open_store()
    for jobs in ([("flush", 60.0), ("events:webhook", 0.5)], [("flush", 60.0)]):
        reports = Reports(store, jobs)
        for name, _ in jobs:
            reports.ended(name, last_run=1.0, duration_ms=1, next_run=2.0)
        await reports.publish()

    assert list(await store.command("HKEYS", store.keys.jobs)) == [b"flush"]


async def test_targets_of_events_show_what_they_miss(open_store: Callable[..., Store]) -> None:
    """Those that are configured; a mark of another release is none."""
    store = open_store()
    mark = Mark(1, delivered=7, lost=2, waiting=3, is_down=True)
    await keep_mark(store, "webhook", mark, token=1)
    await keep_mark(store, "elsewhere", mark, token=1)
    await store.command("HSET", store.keys.targets, "t:newer", orjson.dumps({"places": 1}))
    seen: dict[Any, float] = await told(store, "webhook", "newer", "unheard")

    assert {name: value for name, value in seen.items() if "event" in name[0]} == {
        ("modelmesh_events_told_total", "webhook"): 7,
        ("modelmesh_events_lost_total", "webhook"): 2,
        ("modelmesh_events_waiting", "webhook"): 3,
        ("modelmesh_event_target_down", "webhook"): 1,
    }
