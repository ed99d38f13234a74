"""The live feed of events: the node's one subscription, fanned out to every operator who reads along.

An event is a hint, here too: after a gap the domains' own lists are read again, and each reader gets what it has not seen. A reader
that does not keep up is dropped, for memory is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared_state.cancellation import end_all
from shared_state.domains import read_lists_of_news
from shared_state.errors import ModelMeshError
from shared_state.events import Event, decode_event
from shared_state.shapes.status import EventView
from shared_state.store import STORE_ERRORS, Store

HEARTBEAT_S: Final = 10.0
_MOST_READERS: Final = 64
_MOST_WAITING: Final = 256
_REMEMBERED: Final = 1000
_GOODBYE_S: Final = 1.0

Newest = Callable[[], Awaitable[list[Event]]]


class TooManyReadersError(ModelMeshError):
    """Reading along has its limit."""

    http_status = 503
    default_code = "too_many_readers"


class Feed:
    """One reader's end."""

    def __init__(self) -> None:
        self.dropped = asyncio.Event()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_MOST_WAITING)
        self._gap = False
        self._ended = False

    def put(self, event: Event) -> None:
        """Takes an event, or gives the reader up."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped.set()

    def tell_gap(self) -> None:
        """Events may have been lost."""
        self._gap = True
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._queue.empty():
            self._queue.put_nowait(None)

    async def batches(self, newest: Newest) -> AsyncIterator[list[Event]]:
        """What has come, as it comes; an empty batch when nothing did for a while."""
        while not (self._ended and self._queue.empty()):
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    event = await self._queue.get()
            except TimeoutError:
                yield []
                continue
            if self._gap:
                self._gap = False
                yield await _or_none(newest)
            if event is not None:
                yield [event]


class EventFan:
    """Hands each event to all feeds."""

    def __init__(self) -> None:
        self._feeds: set[Feed] = set()
        self._is_closed = False

    @property
    def readers(self) -> int:
        """How many read along."""
        return len(self._feeds)

    def publish(self, event: Event) -> None:
        """To be called for each event; never blocks."""
        for feed in self._feeds:
            feed.put(event)

    def tell_gap(self) -> None:
        """To be called when events may have been lost."""
        for feed in self._feeds:
            feed.tell_gap()

    def open(self) -> Feed:
        """A feed of all events from here on; close it.

        Raises:
            TooManyReadersError: there are too many already.
        """
        if len(self._feeds) >= _MOST_READERS:
            raise TooManyReadersError(
                f"{_MOST_READERS} read the events of this node already", retry_after_s=5.0
            )
        feed = Feed()
        self._feeds.add(feed)
        if self._is_closed:
            feed.end()
        return feed

    def close(self, feed: Feed) -> None:
        """The reader has gone."""
        self._feeds.discard(feed)

    def end(self) -> None:
        """The node drains: all feeds end, new ones at once."""
        self._is_closed = True
        for feed in self._feeds:
            feed.end()


class EventStream(Response):
    """The answer to a reader: what happened lately, then what happens.

    Args:
        known: all events of the lists, oldest first.
        last: how many of them are told.
        follow: whether it goes on after them.
    """

    media_type = "text/event-stream"

    def __init__(
        self, fan: EventFan, feed: Feed, newest: Newest, known: list[Event], *, last: int, follow: bool
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._fan, self._feed, self._newest = fan, feed, newest
        self._told = known[len(known) - last :] if last else []
        self._seen = dict.fromkeys(known)
        self._remembered = len(known) + _REMEMBERED
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the reader leaves or is dropped, or the feed ends."""
        sending = asyncio.create_task(self._send(send))
        tasks: list[asyncio.Task[object]] = [
            sending,
            asyncio.create_task(_until_gone(receive)),
            asyncio.create_task(self._feed.dropped.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._fan.close(self._feed)
            await end_all(tasks)
        if not sending.cancelled():
            sending.result()
        if self._feed.dropped.is_set():
            await _say_goodbye(send)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_part(_encode(self._told) or b": nothing yet\n\n"))
        if self._follow:
            async for batch in self._feed.batches(self._newest):
                await send(_part(_encode(self._unseen(batch)) or b": beat\n\n"))
        await send(_part(b"", more=False))

    def _unseen(self, batch: Iterable[Event]) -> list[Event]:
        """What was in the lists already comes once more over the subscription."""
        fresh = [event for event in batch if event not in self._seen]
        self._seen.update(dict.fromkeys(fresh))
        while len(self._seen) > self._remembered:
            del self._seen[next(iter(self._seen))]
        return fresh


async def read_news(store: Store, domains: Iterable[str]) -> list[Event]:
    """The latest events of all domains, oldest first.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    raw = await read_lists_of_news(store, list(domains))
    found = [event for news in raw for event in map(decode_event, reversed(news)) if event is not None]
    found.sort(key=lambda event: (event.time_ms, event.epoch))
    return found


def place_of(event: Event) -> str:
    """Its id in the stream: the same on every node, so that a reader can go on at another one."""
    return f"{event.time_ms}-{event.epoch}-{quote(event.domain)}"


def count_after(known: Sequence[Event], place: str) -> int | None:
    """How many events came after the one with that id; None if it is not among them any more."""
    for number, event in enumerate(reversed(known)):
        if place_of(event) == place:
            return number
    return None


def view_event(event: Event) -> EventView:
    """An event as operators see it."""
    return EventView(
        time=event.time_ms / 1000,
        type=event.type,
        domain=event.domain,
        model=event.id if event.kind == "model" else None,
        provider=event.id if event.kind == "provider" else None,
        pool=event.id if event.kind == "pool" else None,
        reason=event.reason,
        until=event.until_ms / 1000 if event.until_ms > 0 else None,
        node=event.node or None,
        numbers=dict(event.numbers),
    )


def _encode(events: Iterable[Event]) -> bytes:
    return b"".join(
        b"id: %b\nevent: %b\ndata: %b\n\n"
        % (place_of(event).encode(), event.type.encode(), view_event(event).model_dump_json().encode())
        for event in events
    )


def _part(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _or_none(newest: Newest) -> list[Event]:
    """The lists after a gap; if the store is away again, the next gap brings them."""
    try:
        return await newest()
    except STORE_ERRORS:
        return []


async def _say_goodbye(send: Send) -> None:
    """Ends the answer to a reader who does not read; the rest is up to the server's own deadlines."""
    try:
        async with asyncio.timeout(_GOODBYE_S):
            await send(_part(b": you were too slow\n\n", more=False))
    except TimeoutError:
        pass
