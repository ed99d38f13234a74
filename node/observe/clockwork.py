"""What the scheduler does, as any node can tell: it has no port of its own, so its reports come from Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared_state.leadership import read_lead
from shared_state.marks import Mark, read_marks
from shared_state.store import Store


@dataclass(frozen=True, slots=True)
class JobFacts:
    """How a job of the scheduler goes: when it is due (unix seconds), how many of its runs failed, whether the last one did."""

    due: float | None
    failures: int
    is_failing: bool


@dataclass(frozen=True, slots=True)
class Clockwork:
    """The scheduler as it was read.

    Attributes:
        read_s: server time, unix seconds: how late a job is, is told as of then.
        is_led: whether some scheduler holds the lead.
        targets: marks of the targets of events.
    """

    read_s: float
    is_led: bool
    jobs: dict[str, JobFacts]
    targets: dict[str, Mark]


async def read_clockwork(store: Store, targets: Iterable[str], *, now_ms: int) -> Clockwork:
    """All of it.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    lead = await read_lead(store)
    raw: dict[bytes, bytes] = await store.command("HGETALL", store.keys.jobs)
    jobs = {name.decode(): _facts(orjson.loads(report)) for name, report in raw.items()}
    is_led = bool(lead.get("owner")) and int(lead.get("until", 0)) > now_ms
    return Clockwork(now_ms / 1000, is_led, jobs, await read_marks(store, targets))


def families_of(clockwork: Clockwork | None) -> Iterator[Metric]:
    """All families; without labels where nothing is known."""
    led = GaugeMetricFamily("modelmesh_scheduler_leading", "Whether some scheduler holds the lead.")
    if clockwork is not None:
        led.add_metric([], float(clockwork.is_led))
    yield led
    yield from _jobs(clockwork.jobs if clockwork else {}, clockwork.read_s if clockwork else 0.0)
    yield from _targets(clockwork.targets if clockwork else {})


def _facts(report: dict[str, object]) -> JobFacts:
    due, failures = report.get("next_run"), report.get("failures")
    return JobFacts(
        float(due) if isinstance(due, int | float) else None,
        int(failures) if isinstance(failures, int) else 0,
        report.get("last_error") is not None,
    )


def _jobs(jobs: dict[str, JobFacts], now_s: float) -> Iterator[Metric]:
    late = GaugeMetricFamily(
        "modelmesh_job_overdue_seconds",
        "For how long a job of the scheduler should have run again; a healthy one is late by a moment.",
        labels=["name"],
    )
    failing = GaugeMetricFamily(
        "modelmesh_job_failing", "Whether the last run of a job of the scheduler failed.", labels=["name"]
    )
    failures = CounterMetricFamily(
        "modelmesh_job_failures", "Runs that failed, since the scheduler leads.", labels=["name"]
    )
    for name, job in jobs.items():
        if job.due is not None:
            late.add_metric([name], max(0.0, now_s - job.due))
        failing.add_metric([name], float(job.is_failing))
        failures.add_metric([name], job.failures)
    yield from (late, failing, failures)


def _targets(marks: dict[str, Mark]) -> Iterator[Metric]:
    told = CounterMetricFamily("modelmesh_events_told", "Events that a target took.", labels=["target"])
    lost = CounterMetricFamily(
        "modelmesh_events_lost",
        "Events that a target was not told, at least: refused, too many, or gone before they were read.",
        labels=["target"],
    )
    waiting = GaugeMetricFamily(
        "modelmesh_events_waiting", "Events that wait for a target.", labels=["target"]
    )
    down = GaugeMetricFamily(
        "modelmesh_event_target_down", "Whether a target of events does not answer.", labels=["target"]
    )
    for name, mark in marks.items():
        told.add_metric([name], mark.delivered)
        lost.add_metric([name], mark.lost)
        waiting.add_metric([name], mark.waiting)
        down.add_metric([name], float(mark.is_down))
    yield from (told, lost, waiting, down)
