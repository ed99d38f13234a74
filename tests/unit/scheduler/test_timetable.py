"""The timetable: who runs when, and what becomes of failures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED

from scheduler.contact import Contact
from scheduler.reports import JobReport, Reports
from scheduler.timetable import Job, Timetable
from shared_state.errors import FencedOffError
from tests.support.processes import wait_until

BOTH_CLOCKS = pytest.mark.parametrize("is_loop", [True, False], ids=["loop", "apscheduler"])


class Lead:
    """A leadership under the test's command."""

    def __init__(self) -> None:
        self.gained, self.lost = asyncio.Event(), asyncio.Event()
        self.token = 0
        self.dropped: list[int] = []

    def gain(self, token: int = 7) -> None:
        self.token = token
        self.lost.clear()
        self.gained.set()

    def lose(self) -> None:
        self.token = 0
        self.gained.clear()
        self.lost.set()

    def drop(self, token: int) -> None:
        self.dropped.append(token)
        self.lose()


class Hall:
    """A running timetable with one job."""

    def __init__(self, work: Callable[[int], Awaitable[None]], **job: Any) -> None:
        line = Job("job", work, **({"interval_s": 60.0, "timeout_s": 5.0} | job))
        self.lead = Lead()
        self.contact = Contact("redis://example")
        self.written: dict[str, bytes] = {}
        client = SimpleNamespace(hset=self._hset, hkeys=self._hkeys)
        store: Any = SimpleNamespace(client=client, keys=SimpleNamespace(jobs="jobs"))
        self.reports = Reports(store, [(line.name, line.interval_s)])
        self.table = Timetable([line], leadership=self.lead, reports=self.reports, contact=self.contact)  # type: ignore[arg-type]

    @property
    def report(self) -> JobReport:
        return self.reports.of("job")

    async def _hkeys(self, _key: str) -> list[bytes]:
        return [name.encode() for name in self.written]

    async def _hset(self, _key: str, *, mapping: dict[str, bytes]) -> None:
        self.written |= mapping


@asynccontextmanager
async def hall(work: Callable[[int], Awaitable[None]], **job: Any) -> AsyncIterator[Hall]:
    built = Hall(work, **job)
    task = asyncio.create_task(built.table.run())
    try:
        yield built
    finally:
        task.cancel()
        await asyncio.wait([task])


@BOTH_CLOCKS
async def test_a_job_runs_at_once_when_the_lead_is_gained(is_loop: bool) -> None:
    """It gets the fencing token, and its report says that it ran."""
    tokens: asyncio.Queue[int] = asyncio.Queue()

    async with hall(tokens.put, is_loop=is_loop) as h:
        await asyncio.sleep(0.05)
        assert tokens.empty()
        h.lead.gain(token=42)

        assert await asyncio.wait_for(tokens.get(), 20) == 42
        await wait_until(lambda: h.report.runs == 1)
        assert h.report.last_error is None
        assert h.report.duration_ms is not None


@BOTH_CLOCKS
async def test_a_running_job_is_cut_off_when_the_lead_is_lost(is_loop: bool) -> None:
    """And it runs again with the next lead."""
    tokens: asyncio.Queue[int] = asyncio.Queue()
    cut_off = asyncio.Event()

    async def work(token: int) -> None:
        await tokens.put(token)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut_off.set()
            raise

    async with hall(work, is_loop=is_loop) as h:
        h.lead.gain(token=1)
        await asyncio.wait_for(tokens.get(), 20)
        h.lead.lose()
        await asyncio.wait_for(cut_off.wait(), 20)
        await wait_until(lambda: h.report.runs == 1)
        h.lead.gain(token=2)

        assert await asyncio.wait_for(tokens.get(), 20) == 2
        assert h.report.last_error is None


@BOTH_CLOCKS
async def test_an_error_is_reported_and_forgotten_after_a_good_run(is_loop: bool) -> None:
    """A failing job stays on the timetable."""
    errors: list[Exception] = [ValueError("no such thing")]

    async def work(_token: int) -> None:
        if errors:
            raise errors.pop()

    async with hall(work, is_loop=is_loop, interval_s=0.01 if is_loop else 60.0) as h:
        h.lead.gain()
        if not is_loop:  # its next run is a minute away: let the next lead begin it
            await wait_until(lambda: h.report.last_error == "no such thing")
            h.lead.lose()
            await asyncio.sleep(0.01)
            h.lead.gain()
        await wait_until(lambda: h.report.runs >= 2)

        assert h.report.last_error is None


@BOTH_CLOCKS
async def test_a_hanging_job_is_ended_by_its_timeout(is_loop: bool) -> None:
    """The report names the time that was allowed, and the store is not blamed."""

    async def work(_token: int) -> None:
        await asyncio.Event().wait()

    async with hall(work, is_loop=is_loop, timeout_s=0.05) as h:
        h.contact.observe(1000.0)
        h.lead.gain()
        await wait_until(lambda: h.report.last_error)

        assert h.report.last_error == "not done within 0.05 s"
        assert h.contact._last is not None


async def test_a_store_that_is_away_breaks_our_contact() -> None:
    """What a job finds out, the reaper must know."""

    async def work(_token: int) -> None:
        raise ConnectionRefusedError("refused")

    async with hall(work, is_loop=True) as h:
        h.contact.observe(1000.0)
        h.lead.gain()
        await wait_until(lambda: h.report.last_error == "refused")

        assert h.contact._last is None


@BOTH_CLOCKS
async def test_a_refused_token_costs_the_lead(is_loop: bool) -> None:
    """Another scheduler leads: that is no fault of the job."""

    async def work(_token: int) -> None:
        raise FencedOffError("alpha")

    async with hall(work, is_loop=is_loop) as h:
        h.lead.gain(token=5)
        await wait_until(lambda: h.lead.dropped)

        assert h.lead.dropped == [5]
        assert h.report.last_error is None


@BOTH_CLOCKS
async def test_draining_waits_for_what_runs_and_starts_nothing(is_loop: bool) -> None:
    """The running job ends by itself; the loop begins no other."""
    entered, may_end = asyncio.Event(), asyncio.Event()

    async def work(_token: int) -> None:
        entered.set()
        await may_end.wait()

    async with hall(work, is_loop=is_loop, interval_s=0.01 if is_loop else 60.0) as h:
        h.lead.gain()
        await asyncio.wait_for(entered.wait(), 20)
        drain = asyncio.create_task(h.table.drain(deadline_s=60))
        await asyncio.sleep(0.02)
        assert not drain.done()
        may_end.set()
        await asyncio.wait_for(drain, 20)
        await asyncio.sleep(0.05)

        assert h.report.runs == 1
        assert h.report.last_error is None


async def test_draining_ends_at_its_deadline() -> None:
    """A job that hangs does not keep the process."""

    async def work(_token: int) -> None:
        await asyncio.Event().wait()

    async with hall(work, is_loop=True) as h:
        h.lead.gain()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await h.table.drain(deadline_s=0.05)


async def test_runs_that_fall_out_are_counted() -> None:
    """A job that is longer than its interval misses runs, and says so."""
    may_end = asyncio.Event()

    async def work(_token: int) -> None:
        await may_end.wait()

    async with hall(work, interval_s=0.05) as h:
        h.lead.gain()
        await wait_until(lambda: h.report.missed >= 2)
        may_end.set()
        await wait_until(lambda: h.report.runs)

        h.table._take_event(SimpleNamespace(code=EVENT_JOB_MISSED, job_id="job"))
        h.table._take_event(SimpleNamespace(code=EVENT_JOB_MAX_INSTANCES, job_id="job"))
        assert h.report.missed >= 4


@BOTH_CLOCKS
async def test_failures_and_overruns_are_counted(is_loop: bool) -> None:
    """Also those that a later good run has forgotten."""
    errors: list[Exception] = [ValueError("no such thing")]

    async def work(_token: int) -> None:
        await asyncio.sleep(0.05)
        if errors:
            raise errors.pop()

    async with hall(work, is_loop=is_loop, interval_s=0.02) as h:
        h.lead.gain()
        await wait_until(lambda: h.report.runs >= 2)

        assert h.report.last_error is None
        assert h.report.failures == 1
        assert h.report.overruns == h.report.runs


@BOTH_CLOCKS
async def test_the_next_run_is_known(is_loop: bool) -> None:
    """A loop pauses after its end; the clock keeps its beat from the start."""

    async def work(_token: int) -> None:
        await asyncio.sleep(0.05)

    async with hall(work, is_loop=is_loop, interval_s=30.0) as h:
        h.lead.gain()
        await wait_until(lambda: h.report.runs)
        report = h.report

    assert report.next_run is not None
    assert report.last_run is not None
    assert report.duration_ms is not None
    expected = report.last_run + 30.0 + (report.duration_ms / 1000 if is_loop else 0.0)
    assert report.next_run == pytest.approx(expected, abs=0.005)


async def test_a_loop_that_was_frozen_has_missed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else would notice: it simply goes on."""
    monkeypatch.setattr("scheduler.timetable._LATE_S", 0.1)

    async def work(_token: int) -> None:
        pass

    async with hall(work, is_loop=True, interval_s=0.02) as h:
        h.lead.gain()
        await wait_until(lambda: h.report.runs >= 2)
        time.sleep(0.3)  # noqa: ASYNC251 - the whole process stands still
        await wait_until(lambda: h.report.missed)

        assert 5 <= h.report.missed <= 20


async def test_reports_reach_the_store() -> None:
    """JSON under the job's name, as the status page reads it."""
    done = asyncio.Event()

    async def work(_token: int) -> None:
        done.set()

    async with hall(work, interval_s=30.0) as h:
        h.lead.gain()
        await asyncio.wait_for(done.wait(), 20)
        await wait_until(lambda: h.report.runs)
        await h.reports.publish()

        report = json.loads(h.written["job"])
        assert {
            "name": "job",
            "interval_s": 30.0,
            "last_error": None,
            "runs": 1,
            "missed": 0,
        }.items() <= report.items()
        assert {"last_run", "duration_ms"} <= report.keys()


async def test_a_report_that_was_not_written_goes_out_later() -> None:
    """The store was away for a moment; nothing is forgotten."""
    h = Hall(lambda _: asyncio.sleep(0))
    good, h.reports._store.client.hset = h.reports._store.client.hset, failing

    h.reports.missed("job")
    with pytest.raises(TimeoutError):
        await h.reports.publish()
    h.reports._store.client.hset = good  # type: ignore[method-assign]
    await h.reports.publish()

    assert json.loads(h.written["job"])["missed"] == 1


async def failing(*_: object, **__: object) -> None:
    raise TimeoutError
