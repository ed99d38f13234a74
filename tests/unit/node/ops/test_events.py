"""The feed of events: nobody is told twice, nothing is missed after a gap, and no reader costs more than its share of memory."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from node.ops import events as feeds
from node.ops.events import EventFan, EventStream, TooManyReadersError
from node.server import HttpServer, ServerOptions, bind_socket
from shared_state.events import Event
from tests.support.processes import wait_until

_numbers = itertools.count(1)


def event(name: str = "alpha.m") -> Event:
    """An event unlike any other."""
    number = next(_numbers)
    return Event("model_deactivated", number, number, "alpha", "model", name, "a whim", 0, "n1")


class Reader:
    """A caller that reads along; it can stop reading, and leave."""

    def __init__(
        self, fan: EventFan, *, known: list[Event] | None = None, last: int = 50, follow: bool = True
    ) -> None:
        self.known = known or []
        self.heard = b""
        self.is_over = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.left = asyncio.Event()
        stream = EventStream(fan, fan.open(), self._newest, list(self.known), last=last, follow=follow)
        self.task = asyncio.create_task(stream({"type": "http"}, self._receive, self._send))

    async def _newest(self) -> list[Event]:
        return self.known

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.heard += message.get("body", b"")
        self.is_over = message["type"] == "http.response.body" and not message["more_body"]
        await self.reads.wait()

    @property
    def names(self) -> list[str]:
        """Models of the events that were told, in order."""
        lines = self.heard.decode().splitlines()
        return [orjson.loads(line[6:])["model"] for line in lines if line.startswith("data: ")]

    async def hears(self, condition: Callable[[Reader], bool]) -> None:
        """Waits until it has heard enough."""
        await wait_until(lambda: condition(self), 3.0, interval=0.001)


async def test_the_latest_come_first_and_then_what_happens():
    """Oldest first; what the lists had already is not told again when the subscription brings it."""
    fan, old = EventFan(), [event("a"), event("b"), event("c")]
    reader = Reader(fan, known=old, last=2)
    await reader.hears(lambda r: len(r.names) == 2)
    for new in (old[0], old[2], event("d")):
        fan.publish(new)
    await reader.hears(lambda r: len(r.names) > 2)

    assert reader.names == ["b", "c", "d"]
    reader.left.set()
    await reader.task


async def test_without_following_it_ends_after_the_latest():
    """And frees its place."""
    fan = EventFan()
    reader = Reader(fan, known=[event("a")], follow=False)
    await reader.task

    assert reader.names == ["a"]
    assert reader.is_over
    assert fan.readers == 0


async def test_after_a_gap_the_lists_are_read_again():
    """What was lost with the connection is told, once."""
    fan, lost = EventFan(), event("lost")
    reader = Reader(fan, known=[event("a")])
    await reader.hears(lambda r: r.names == ["a"])
    reader.known.append(lost)
    fan.tell_gap()
    await reader.hears(lambda r: len(r.names) == 2)
    fan.tell_gap()
    fan.publish(event("b"))
    await reader.hears(lambda r: len(r.names) > 2)

    assert reader.names == ["a", "lost", "b"]
    reader.left.set()
    await reader.task


async def test_silence_is_filled_with_heartbeats(monkeypatch):
    """So that proxies and readers know that the connection lives."""
    monkeypatch.setattr(feeds, "HEARTBEAT_S", 0.01)
    reader = Reader(EventFan())
    await reader.hears(lambda r: r.heard.count(b": beat\n\n") >= 2)

    assert reader.names == []
    reader.left.set()
    await reader.task


async def test_a_reader_that_leaves_frees_its_place():
    """At once."""
    fan = EventFan()
    reader = Reader(fan)
    await reader.hears(lambda r: bool(r.heard))
    reader.left.set()
    await reader.task

    assert fan.readers == 0


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch):
    """It holds a bounded number of events; the others hear everything."""
    monkeypatch.setattr(feeds, "_GOODBYE_S", 0.01)
    fan = EventFan()
    slow, quick = Reader(fan), Reader(fan)
    await slow.hears(lambda r: bool(r.heard))
    slow.reads.clear()
    for number in range(1, 400):
        fan.publish(event())
        if number % 50 == 0:
            await quick.hears(lambda r, n=number: len(r.names) == n)
    await slow.task

    assert fan.readers == 1
    assert b"too slow" in slow.heard
    assert slow.is_over
    await quick.hears(lambda r: len(r.names) == 399)
    quick.left.set()
    await quick.task


async def test_a_drain_ends_all_readers():
    """What has come is told before; who comes later is told what was, and no more."""
    fan = EventFan()
    reader = Reader(fan)
    await reader.hears(lambda r: bool(r.heard))
    fan.publish(event("last"))
    fan.end()
    await reader.task
    late = Reader(fan, known=[event("a")])
    await late.task

    assert reader.names == ["last"]
    assert reader.is_over
    assert late.names == ["a"]
    assert fan.readers == 0


async def test_there_is_a_most_number_of_readers():
    """One more is asked to come back later."""
    fan = EventFan()
    for _ in range(64):
        fan.open()

    with pytest.raises(TooManyReadersError):
        fan.open()


async def test_memory_of_what_was_told_is_bounded(monkeypatch):
    """A reader that stays for weeks does not grow."""
    monkeypatch.setattr(feeds, "_REMEMBERED", 10)
    fan = EventFan()
    stream = EventStream(fan, fan.open(), lambda: None, [event()], last=0, follow=True)  # type: ignore[arg-type, return-value]
    for _ in range(100):
        stream._unseen([event()])

    assert len(stream._seen) <= 11


@pytest.mark.parametrize("engine", ["fast", "stock"])
async def test_a_reader_that_does_not_read_is_dropped_by_a_real_server(engine, monkeypatch):
    """However much the sockets between them swallow: the server's memory holds a bounded part of it."""
    monkeypatch.setattr(feeds, "_GOODBYE_S", 0.05)
    fan = EventFan()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await EventStream(fan, fan.open(), lambda: None, [], last=0, follow=True)(scope, receive, send)  # type: ignore[arg-type, return-value]
        else:
            await Starlette()(scope, receive, send)

    listener = bind_socket("127.0.0.1", 0)
    server = HttpServer(app, [listener], ServerOptions(engine=engine))
    await server.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"GET /ops/events HTTP/1.1\r\nhost: x\r\n\r\n")
        await wait_until(lambda: fan.readers == 1)
        published = 0
        while fan.readers and published < 20_000:
            for _ in range(10):
                fan.publish(replace(event(), reason="x" * 5000))
            published += 10
            await asyncio.sleep(0)
        await wait_until(lambda: server.in_flight == 0)
    await server.abort()

    assert fan.readers == 0
    assert published < 20_000
