"""Maintenance windows as a function of the clock: the scheduler announces them, and without one every node obeys them by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim

from shared_state.config.pools import MaintenanceConfig
from shared_state.specs import ModelSpec
from shared_state.state import EntityState, Mode, Reason, Status
from shared_state.topology import Topology

_MINUTE: Final = timedelta(minutes=1)


class Span(NamedTuple):
    """A maintenance window that is running, in unix milliseconds."""

    begins_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What holds from one moment up to another."""

    from_ms: int
    until_ms: float
    span: Span | None


def running(window: MaintenanceConfig, now_ms: int) -> Span | None:
    """The latest run of a window, if it has not ended."""
    begins_ms = _begin(window, now_ms, is_reverse=True)
    if begins_ms is None:
        return None
    ends_ms = begins_ms + round(window.duration * 1000)
    return Span(begins_ms, ends_ms) if now_ms < ends_ms else None


def next_begin_ms(window: MaintenanceConfig, now_ms: int) -> int | None:
    """When a window begins next; None if never again."""
    return _begin(window, now_ms, is_reverse=False)


def _begin(window: MaintenanceConfig, now_ms: int, *, is_reverse: bool) -> int | None:
    zone = ZoneInfo(window.timezone or "UTC")
    now = datetime.fromtimestamp(now_ms // 1000, UTC).replace(second=0)
    # The walk back leaves out where it starts from, and a minute that has begun is one that has come.
    start = (now + _MINUTE if is_reverse else now).astimezone(zone)
    begins = next(_walk(window.cron, start, is_reverse=is_reverse), None)
    return None if begins is None else round(begins.timestamp() * 1000)


def _walk(cron: str, start: datetime, *, is_reverse: bool) -> Iterator[datetime]:
    return iter(CronSim(cron, start, reverse=is_reverse))


class Calendar:
    """The windows of one model; looks at the crontabs only when one of them begins or ends."""

    def __init__(self, windows: tuple[MaintenanceConfig, ...]) -> None:
        self._windows = windows
        self._outlook = _Outlook(0, 0, None)

    def span(self, now_ms: int) -> Span | None:
        """The window that is running; of several the one that ends last."""
        if not self._outlook.from_ms <= now_ms < self._outlook.until_ms:
            self._outlook = self._look(now_ms)
        return self._outlook.span

    def _look(self, now_ms: int) -> _Outlook:
        spans = [span for window in self._windows if (span := running(window, now_ms))]
        span = max(spans, key=lambda each: each.ends_ms, default=None)
        begins = [ms for window in self._windows if (ms := next_begin_ms(window, now_ms)) is not None]
        changes = [*begins, *(each.ends_ms for each in spans)]
        return _Outlook(now_ms, min(changes, default=math.inf), span)


class Calendars:
    """The calendars of all models that have one."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.of_models: dict[str, Calendar] = {
            model.id: Calendar(model.maintenance) for model in topology.models.values() if model.maintenance
        }

    def rest_of(self, model: str, state: EntityState, now_ms: int) -> EntityState | None:
        """The state of a model that rests though nobody has said so in Redis; None if it does not.

        Whoever has become active since the window began was brought back by an operator.
        """
        calendar = self.of_models.get(model)
        span = calendar.span(now_ms) if calendar else None
        if span is None or (state.status == Status.ACTIVE and state.since_ms > span.begins_ms):
            return None
        return EntityState(
            Status.STANDBY,
            Reason.MAINTENANCE_WINDOW,
            Mode.TIME,
            since_ms=span.begins_ms,
            until_ms=span.ends_ms,
        )


def due_rests(models: tuple[ModelSpec, ...], calendars: Calendars, now_ms: int) -> list[tuple[str, Span]]:
    """The models among these whose maintenance is running."""
    rests = []
    for model in models:
        calendar = calendars.of_models.get(model.id)
        if calendar is not None and (span := calendar.span(now_ms)):
            rests.append((model.id, span))
    return rests
