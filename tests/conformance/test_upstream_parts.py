"""The parts under the fast transport that can be tried without a server: the parser, the pool, the cache of names."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import httpx
import pytest

from node.upstream.dialler import NameCache
from node.upstream.parser import HEAD_MAX_BYTES, INTERIM_MAX, ResponseParser
from node.upstream.pool import OriginPool
from node.upstream.wire import Timeouts

INTERIM = b"HTTP/1.1 102 Processing\r\nX: 1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nA:  b \r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nT: x\r\n\r\n"


def parse(*parts, is_head=False):
    parser = ResponseParser(is_head=is_head)
    for part in parts:
        parser.feed(part)
    return parser


def test_any_split_into_three_parses_alike():
    """Where the network cuts an interim answer, a head, chunks and trailers makes no difference."""
    raw = INTERIM + CHUNKED
    for first in range(1, len(raw) - 1):
        for second in range(first + 1, len(raw), 7):
            parser = parse(raw[:first], raw[first:second], raw[second:])

            assert parser.headers == [(b"a", b"b"), (b"transfer-encoding", b"chunked")]
            assert (parser.status, parser.take(), parser.is_reusable) == (200, b"abc", True)


@pytest.mark.parametrize(
    ("raw", "is_head", "is_reusable"),
    [
        (CHUNKED + b"HTTP/1.1 200 OK\r\n\r\n", False, False),
        (CHUNKED + b"x", False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", True, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", True, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", False, False),
    ],
    ids=["second response", "one byte more", "body after HEAD", "HEAD", "close"],
)
def test_complete_response_knows_whether_its_connection_is_clean(raw, is_head, is_reusable):
    """Surplus bytes never spoil the response, only the connection."""
    parser = parse(raw, is_head=is_head)

    assert parser.is_complete
    assert parser.is_reusable is is_reusable


@pytest.mark.parametrize(
    "raw",
    [
        INTERIM * (INTERIM_MAX + 1),
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
    ],
    ids=["interims", "101", "99", "gzip", "two framings", "negative", "bare LF", "space", "HTTP/2"],
)
def test_what_is_ambiguous_is_refused(raw):
    """Nothing is guessed: a response that could be read in two ways is not read at all."""
    with pytest.raises(httpx.RemoteProtocolError):
        parse(raw)


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "in packets"])
def test_head_without_end_is_refused_early(size):
    """Not much more than the limit is ever taken in."""
    parser = parse(b"HTTP/1.1 200 OK\r\nX: ")
    with pytest.raises(httpx.RemoteProtocolError):
        for _ in range(HEAD_MAX_BYTES // size + 1):
            parser.feed(b"a" * size)


def test_trailers_are_bounded():
    """A body that ends in endless trailers is refused like a head."""
    parser = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    with pytest.raises(httpx.RemoteProtocolError):
        for _ in range(HEAD_MAX_BYTES):
            parser.feed(b"T: x\r\n")


NO_TIMEOUTS = Timeouts(connect_s=None, pool_s=None, read_s=None, write_s=None)


@dataclass(eq=False)
class Line:
    """Stands for a connection in the pool."""

    is_open: bool = True


def open_pool(dial):
    return OriginPool(dial, limit=1, keepalive_expiry_s=30, max_age_s=300)


async def test_failed_dial_passes_its_place_on():
    """Everyone in line gets a try of their own when nobody listens."""
    dials = 0

    async def dial(_pool):
        nonlocal dials
        dials += 1
        await asyncio.sleep(0)
        raise httpx.ConnectError("refused")

    pool = open_pool(dial)
    async with asyncio.timeout(2):
        results = await asyncio.gather(*(pool.acquire(NO_TIMEOUTS) for _ in range(5)), return_exceptions=True)

    assert [type(result) for result in results] == [httpx.ConnectError] * 5
    assert dials == 5
    assert pool.is_empty


async def test_connection_that_dies_on_its_way_to_a_waiter_is_replaced():
    """Between being given and being taken a connection may close; the waiter then dials."""
    lines: list[Line] = []

    async def dial(_pool):
        lines.append(Line())
        return lines[-1]

    pool = open_pool(dial)
    first = await pool.acquire(NO_TIMEOUTS)
    waiter = asyncio.create_task(pool.acquire(NO_TIMEOUTS))
    await asyncio.sleep(0)
    pool.release(first)
    first.is_open = False
    pool.forget(first)
    async with asyncio.timeout(2):
        second = await waiter

    assert lines == [first, second]
    assert pool.stats() == {"open": 1, "idle": 0, "in_use": 1, "waiting": 0}


@pytest.mark.parametrize("is_open", [True, False], ids=["connection", "dead connection"])
async def test_gift_to_a_cancelled_waiter_goes_to_the_next(is_open):
    """Served and cancelled in the same turn of the loop: nothing is lost, the line moves on."""

    async def dial(_pool):
        return Line()

    pool = open_pool(dial)
    first = await pool.acquire(NO_TIMEOUTS)
    cancelled, patient = (asyncio.create_task(pool.acquire(NO_TIMEOUTS)) for _ in range(2))
    await asyncio.sleep(0)
    pool.release(first)
    cancelled.cancel()
    first.is_open = is_open
    async with asyncio.timeout(2):
        got = await patient

    assert cancelled.cancelled()
    assert (got is first) is is_open
    assert pool.stats() == {"open": 1, "idle": 0, "in_use": 1, "waiting": 0}


async def test_place_given_to_a_cancelled_waiter_goes_to_the_next():
    """The same for the right to dial."""

    async def dial(_pool):
        return Line()

    pool = open_pool(dial)
    first = await pool.acquire(NO_TIMEOUTS)
    cancelled, patient = (asyncio.create_task(pool.acquire(NO_TIMEOUTS)) for _ in range(2))
    await asyncio.sleep(0)
    pool.forget(first)
    cancelled.cancel()
    async with asyncio.timeout(2):
        await patient

    assert pool.stats() == {"open": 1, "idle": 0, "in_use": 1, "waiting": 0}


class Resolver:
    """Stands for ``loop.getaddrinfo``: counts, answers when told, fails when told."""

    def __init__(self, monkeypatch):
        self.asked = 0
        self.go = asyncio.Event()
        self.is_broken = False
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host, port, *, type):
        self.asked += 1
        await self.go.wait()
        if self.is_broken:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [
            (socket.AF_INET, type, 6, "", (address, port)) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
        ]


async def test_one_lookup_serves_all_who_ask(monkeypatch):
    """Many requests for one name ask once, and one that is cancelled does not spoil it for the others."""
    resolver, names = Resolver(monkeypatch), NameCache(ttl_s=60)
    leaver, *others = [asyncio.create_task(names.resolve("api.test", 443)) for _ in range(3)]
    await asyncio.sleep(0)
    leaver.cancel()
    resolver.go.set()
    answers = await asyncio.gather(*others)

    assert answers == [("10.0.0.1", "10.0.0.2")] * 2
    assert await names.resolve("api.test", 443) == ("10.0.0.1", "10.0.0.2")
    assert resolver.asked == 1


async def test_old_addresses_serve_while_the_resolver_is_down(monkeypatch):
    """After the TTL the name is asked again; when that fails the last answer is still good."""
    resolver, names = Resolver(monkeypatch), NameCache(ttl_s=0)
    resolver.go.set()
    await names.resolve("api.test", 443)
    resolver.is_broken = True

    assert await names.resolve("api.test", 443) == ("10.0.0.1", "10.0.0.2")
    assert resolver.asked == 2
    with pytest.raises(OSError):
        await names.resolve("other.test", 443)


async def test_closing_ends_a_lookup(monkeypatch):
    """A resolver that never answers holds nobody, and who waited is told, not cancelled."""
    resolver, names = Resolver(monkeypatch), NameCache(ttl_s=60)
    waiting = asyncio.create_task(names.resolve("api.test", 443))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await names.aclose()
    with pytest.raises(OSError):
        await waiting

    assert resolver.asked == 1
