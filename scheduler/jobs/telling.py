"""Tells a target of every event that concerns it: at least once, whoever leads, and without anybody waiting for it.

What was told is marked in Redis behind the target's own answer, so whoever leads next begins where this one stopped; receivers know by an event's id
what they have heard already. What cannot be told yet waits here, up to a bound, and in Redis as long as its list holds it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from scheduler.contact import read_server_time_s
from scheduler.news import News, Told, after, in_order, place_of
from scheduler.sinks.events import EventTarget, Record, TargetError, record_of
from shared_state.config.observability import EventTargetConfig
from shared_state.event_kinds import Gravity, chosen, gravity_of
from shared_state.logs import get_logger
from shared_state.marks import Mark, Place, keep_mark, read_mark
from shared_state.store import Store

log = get_logger(__name__)

_FIRST_PAUSE_S: Final = 1.0
_DOWN_PAUSE_S: Final = 30.0
#: A run that has much to tell makes way for a look at what came meanwhile.
_RUN_S: Final = 5.0
_MOST_ERROR_CHARS: Final = 200


class Interest:
    """Which events a target wants, and in which words."""

    def __init__(self, config: EventTargetConfig) -> None:
        self._kinds = chosen(config.filter)
        self._least = Gravity[config.least.upper()]
        self._has_metadata = config.include_metadata

    def wants(self, told: Told) -> bool:
        """Whether it is to be told."""
        event = told.event
        if self._kinds is not None and event.type not in self._kinds:
            return False
        return gravity_of(event.type, event.reason) >= self._least

    def record(self, told: Told) -> Record:
        """What it is told."""
        return record_of(told.event, told.id, has_metadata=self._has_metadata)


class Telling:
    """One target's job.

    Args:
        name: by which its mark is kept.
        draw: uniform numbers in [0, 1).
    """

    def __init__(
        self,
        store: Store,
        news: News,
        name: str,
        config: EventTargetConfig,
        target: EventTarget,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._news = news
        self._name = name
        self._target = target
        self._interest = Interest(config)
        self._retry_count = config.retry_count
        self._most_waiting = config.max_waiting
        self._draw = draw
        self._token = 0
        self._begin(Mark(0))

    def _begin(self, mark: Mark) -> None:
        self._mark, self._kept = mark, ""
        self._seen = dict(mark.places)
        self._waiting: deque[Told] = deque()
        self._failures = 0
        self._resume_at = 0.0
        self._fault: TargetError | None = None
        self._singly = 0  # so many are told one by one, for one of them was refused

    @property
    def waiting(self) -> int:
        """Events that wait to be told."""
        return len(self._waiting)

    async def run(self, token: int) -> None:
        """Looks for news and tells what waits.

        Raises:
            TargetError: the target does not take it; it goes on waiting.
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        if token != self._token:
            await self._take_up(token)
        await self._gather()
        try:
            await self._deliver(token)
        finally:
            await self._keep(token)

    async def aclose(self) -> None:
        """Lets the target go."""
        await self._target.aclose()

    # -- news

    async def _take_up(self, token: int) -> None:
        """Goes on where whoever led last has stopped; a new target hears what happens from now on."""
        mark = await read_mark(self._store, self._name)
        if mark is None:
            newest = await self._news.newest()
            since_ms = round(await read_server_time_s(self._store) * 1000)
            mark = Mark(since_ms, {name: place_of(raw) for name, raw in newest.items()})
        self._begin(mark)
        self._token = token

    async def _gather(self) -> None:
        newest = await self._news.newest()
        changed = [name for name, raw in newest.items() if place_of(raw) != self._seen.get(name)]
        if not changed:
            return
        lists = await self._news.read(changed)
        found = {
            name: after(name, raw, self._seen.get(name), since_ms=self._mark.since_ms)
            for name, raw in lists.items()
        }
        gaps = sum(each.has_gap for each in found.values())
        if gaps:
            self._lose(gaps, "events had left their list before they were read")
        self._seen |= {name: each.newest for name, each in found.items() if each.newest is not None}
        self._waiting.extend(told for told in in_order(found) if self._interest.wants(told))
        if (excess := len(self._waiting) - self._most_waiting) > 0:
            for _ in range(excess):
                self._waiting.popleft()
            self._lose(excess, "too many events waited")

    # -- telling

    async def _deliver(self, token: int) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _RUN_S
        while self._waiting and loop.time() < until:
            if self._fault is not None and loop.time() < self._resume_at:
                raise self._fault
            size = 1 if self._singly else self._target.most
            batch = [self._waiting[i] for i in range(min(size, len(self._waiting)))]
            try:
                await self._target.tell([self._interest.record(told) for told in batch])
            except TargetError as error:
                self._fail(error, batch)
            else:
                self._succeed(batch)
            await self._keep(token)

    def _succeed(self, batch: list[Told]) -> None:
        self._mark.delivered += len(batch)
        self._failures, self._fault = 0, None
        self._mark.is_down, self._mark.error = False, ""
        self._pass(batch)

    def _pass(self, batch: list[Told]) -> None:
        """These are done with, told or given up."""
        for told in batch:
            self._waiting.popleft()
            self._mark.places[told.list] = Place(told.event.time_ms, told.id)
        self._singly = max(0, self._singly - len(batch))

    def _fail(self, error: TargetError, batch: list[Told]) -> None:
        """What is refused for good is given up, what is not waits.

        Raises:
            TargetError: it is to wait.
        """
        if error.is_final and len(batch) > 1:
            self._singly = len(batch)
            return
        if error.is_final:
            self._lose(1, error.message)
            self._pass(batch)
            return
        self._failures += 1
        is_down = self._failures > self._retry_count
        pause_s = _DOWN_PAUSE_S if is_down else min(_DOWN_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1))
        pause_s = max(error.wait_s, pause_s * (0.5 + self._draw() / 2))
        self._resume_at = asyncio.get_running_loop().time() + pause_s
        self._fault, self._mark.is_down = error, is_down
        self._mark.error = error.message[:_MOST_ERROR_CHARS]
        raise error

    def _lose(self, count: int, why: str) -> None:
        """Said when it begins; how many there are is counted."""
        if self._mark.error != why:
            log.warning("a target of events misses some", target=self._name, reason=why)
        self._mark.lost += count
        self._mark.error = why[:_MOST_ERROR_CHARS]

    # -- the mark

    async def _keep(self, token: int) -> None:
        """Marks how far it was told, if that has changed. A list with nothing that waits was told, or passed over, to its end."""
        mark, owed = self._mark, {told.list for told in self._waiting}
        mark.waiting = len(self._waiting)
        for name, place in self._seen.items():
            if name not in owed:
                mark.places[name] = place
        if (text := repr(mark)) != self._kept:
            await keep_mark(self._store, self._name, mark, token=token)
            self._kept = text
