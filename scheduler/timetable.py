"""The timetable: jobs declared in code that run while this process leads, each under a timeout.

Jobs of minutes are APScheduler's. It follows the wall clock, which may be set back and would then let a job of seconds wait
for as long; those are plain loops on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from scheduler.contact import Contact
from scheduler.leadership import Leadership
from scheduler.reports import Reports
from shared_state.cancellation import obey_cancellation
from shared_state.errors import FencedOffError, ModelMeshError
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS

log = get_logger(__name__)

_PUBLISH_EVERY_S: Final = 1.0
#: A run may be this late without counting as missed: a busy process is no frozen one.
_LATE_S: Final = 1.0


class JobTimeoutError(ModelMeshError):
    """A job did not end within its time."""

    default_code = "job_timeout"


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the timetable.

    Attributes:
        work: called with the fencing token; passes it to every script.
        is_loop: runs on the monotonic clock, ``interval_s`` after the end of the run before.
    """

    name: str
    work: Callable[[int], Awaitable[None]]
    interval_s: float
    timeout_s: float
    is_loop: bool = False


class Timetable:
    """Runs the jobs while ``leadership`` holds, the first time at once."""

    def __init__(
        self, jobs: Sequence[Job], *, leadership: Leadership, reports: Reports, contact: Contact
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._leadership = leadership
        self._reports = reports
        self._contact = contact
        self._clock = AsyncIOScheduler(timezone=UTC)
        self._loops: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._is_stopping = False

    async def run(self) -> None:
        """Follows the lead until cancelled."""
        self._fill_clock()
        try:
            while True:
                await self._leadership.gained.wait()
                self._begin()
                await self._leadership.lost.wait()
                self._halt()
        finally:
            halted = self._halt()
            self._clock.shutdown(wait=False)
            await asyncio.gather(*halted, return_exceptions=True)

    async def drain(self, *, deadline_s: float) -> None:
        """Starts nothing more, and waits for what runs."""
        self._is_stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=deadline_s)

    def _fill_clock(self) -> None:
        self._clock.add_listener(
            self._take_event, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES
        )
        for job in self._jobs.values():
            if job.is_loop:
                continue
            self._clock.add_job(
                self._attempt,
                "interval",
                args=[job],
                seconds=job.interval_s,
                id=job.name,
                name=job.name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=max(1, round(job.interval_s)),
                next_run_time=None,
            )
        self._clock.start()

    def _begin(self) -> None:
        loops = [self._repeat(job) for job in self._jobs.values() if job.is_loop]
        self._loops = [asyncio.create_task(loop) for loop in (*loops, self._publish())]
        for scheduled in self._clock.get_jobs():
            scheduled.modify(next_run_time=datetime.now(UTC))

    def _halt(self) -> set[asyncio.Task[Any]]:
        for scheduled in self._clock.get_jobs():
            scheduled.pause()
        halted = {*self._loops, *self._running}
        for task in halted:
            task.cancel()
        self._loops = []
        return halted

    async def _repeat(self, job: Job) -> None:
        while True:
            run = asyncio.create_task(self._attempt(job))  # of its own, so that it can be waited for
            await asyncio.wait([run])
            if not run.cancelled() and (error := run.exception()):
                self._fail(job.name, error)
            await self._pause(job)

    async def _pause(self, job: Job) -> None:
        """Waits for the next run; a process that was frozen meanwhile has missed some."""
        loop = asyncio.get_running_loop()
        due = loop.time() + job.interval_s
        await asyncio.sleep(job.interval_s)
        late_s = loop.time() - due
        if late_s > max(job.interval_s, _LATE_S):
            self._reports.missed(job.name, int(late_s / job.interval_s))

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_EVERY_S)
            try:
                await self._reports.publish()
            except STORE_ERRORS as error:
                self._contact.lose(error)
            obey_cancellation()

    async def _attempt(self, job: Job) -> None:
        """Runs a job once, if it may."""
        token = self._leadership.token
        if not token or self._is_stopping:
            return
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        unix_s, started_s = time.time(), time.perf_counter()
        try:
            await _within(job, token)
            self._reports.succeeded(job.name)
        except FencedOffError:
            self._leadership.drop(token)
        finally:
            self._running.discard(task)
            took_s = time.perf_counter() - started_s
            self._reports.ended(
                job.name,
                last_run=unix_s,
                duration_ms=took_s * 1000,
                next_run=_next_run(job, started=unix_s, took_s=took_s),
            )

    def _take_event(self, event: Any) -> None:
        if event.code != EVENT_JOB_ERROR:
            self._reports.missed(event.job_id)
        elif not isinstance(event.exception, asyncio.CancelledError):  # that is us: the lead was lost
            self._fail(event.job_id, event.exception)

    def _fail(self, name: str, error: BaseException) -> None:
        if isinstance(error, STORE_ERRORS):
            self._contact.lose(error)
        self._reports.failed(name, error)


def _next_run(job: Job, *, started: float, took_s: float) -> float:
    """A loop's pause begins at the end of a run; the clock keeps its beat, whatever a run takes."""
    if job.is_loop:
        return started + took_s + job.interval_s
    return started + job.interval_s * (int(took_s / job.interval_s) + 1)


async def _within(job: Job, token: int) -> None:
    limit = asyncio.timeout(job.timeout_s)
    try:
        async with limit:
            await job.work(token)
    except TimeoutError as error:
        if limit.expired():
            raise JobTimeoutError(f"not done within {job.timeout_s:g} s") from error
        raise
