"""What became of each job's last run, kept in Redis where every node's status page finds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from scheduler.contact import describe
from shared_state.logs import get_logger
from shared_state.store import Store

log = get_logger(__name__)

_ERROR_MAX_CHARS = 300


@dataclass(slots=True)
class JobReport:
    """A job's own account since this process began to lead.

    Attributes:
        last_run: start of the last run, unix seconds.
        next_run: when it is due again, unix seconds; a job that is overdue shows by it, even if its scheduler is frozen or dead.
        last_error: why the last run failed; None if it did not.
        failures: runs that failed.
        missed: runs that fell out because the one before was still under way, or because it was too late for them.
        overruns: runs that took longer than the interval.
    """

    name: str
    interval_s: float
    last_run: float | None = None
    duration_ms: float | None = None
    next_run: float | None = None
    last_error: str | None = None
    runs: int = 0
    failures: int = 0
    missed: int = 0
    overruns: int = 0


class Reports:
    """The reports of all jobs; a failure is logged when it begins, changes or ends, not at every run."""

    def __init__(self, store: Store, jobs: Iterable[tuple[str, float]]) -> None:
        self._store = store
        self._reports = {name: JobReport(name, interval_s) for name, interval_s in jobs}
        self._changed: set[str] = set()
        self._is_swept = False

    def of(self, name: str) -> JobReport:
        """The report of one job."""
        return self._reports[name]

    def ended(self, name: str, *, last_run: float, duration_ms: float, next_run: float | None = None) -> None:
        """A run is over, well or not."""
        report = self._touch(name)
        report.last_run = round(last_run, 3)
        report.duration_ms = round(duration_ms, 3)
        report.next_run = None if next_run is None else round(next_run, 3)
        report.runs += 1
        if duration_ms > report.interval_s * 1000:
            report.overruns += 1

    def succeeded(self, name: str) -> None:
        """The run went well."""
        report = self._touch(name)
        if report.last_error is not None:
            log.info("job is well again", job=name)
        report.last_error = None

    def failed(self, name: str, error: BaseException) -> None:
        """The run went wrong."""
        report, text = self._touch(name), describe(error)[:_ERROR_MAX_CHARS]
        if text != report.last_error:
            log.error("job failed", job=name, error=text, type=type(error).__name__)
        report.last_error = text
        report.failures += 1

    def missed(self, name: str, count: int = 1) -> None:
        """Runs fell out."""
        self._touch(name).missed += count
        log.warning("job missed its runs", job=name, count=count)

    async def publish(self) -> None:
        """Writes what has changed since the last time; the first time it removes jobs that there are no more, which would look overdue for ever.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; the changes go out with the next call.
        """
        if not self._is_swept:
            await self._sweep()
        changed: dict[Any, bytes] = {
            name: orjson.dumps(asdict(self._reports[name])) for name in self._changed
        }
        if not changed:
            return
        self._changed.clear()
        try:
            await self._store.client.hset(self._store.keys.jobs, mapping=changed)
        except BaseException:
            self._changed.update(changed)
            raise

    async def _sweep(self) -> None:
        known = [_text(name) for name in await self._store.client.hkeys(self._store.keys.jobs)]
        gone = [name for name in known if name not in self._reports]
        if gone:
            await self._store.client.hdel(self._store.keys.jobs, *gone)
        self._is_swept = True

    def _touch(self, name: str) -> JobReport:
        self._changed.add(name)
        return self._reports[name]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
