"""One request under way on one connection: what came back so far, who waits for it, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator
from typing import Protocol

import httpx

from node.upstream.parser import ResponseParser
from node.upstream.wire import Call


class Carrier(Protocol):
    """The connection, as an exchange sees it."""

    loop: asyncio.AbstractEventLoop
    is_reused: bool

    def head_clock_s(self) -> float | None:
        """The clock that runs before the head has come."""

    def arm(self, delay_s: float | None) -> None:
        """Sets the one clock."""

    def resume_reading(self) -> None:
        """There is room again."""

    def abandon(self, exchange: Exchange) -> None:
        """Closes under an exchange that its reader gives up."""


class Exchange:
    """The meeting point of a connection, which feeds it, and of one reader, which waits on it.

    Attributes:
        is_sent: whether any byte of the request may have reached the peer.
        is_released: the connection is no longer ours: it serves others, or it is gone from its pool.
        is_stale: a kept-alive connection turned out to be dead before it answered anything.
        is_reused: the connection had served before.
        is_replayed: it is the second try of a request whose first connection was stale.
        error: what ended the exchange before its response was complete.
    """

    __slots__ = (
        "_connection",
        "_is_head_taken",
        "_read_s",
        "_waiter",
        "error",
        "is_released",
        "is_replayed",
        "is_reused",
        "is_sent",
        "is_stale",
        "response",
    )

    def __init__(self, connection: Carrier, call: Call) -> None:
        self._connection = connection
        self._read_s = call.timeouts.read_s
        self._waiter: asyncio.Future[None] | None = None
        self._is_head_taken = False
        self.response = ResponseParser(is_head=call.is_head)
        self.error: httpx.RequestError | httpx.StreamClosed | None = None
        self.is_sent = False
        self.is_released = False
        self.is_stale = False
        self.is_reused = connection.is_reused
        self.is_replayed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._connection.loop

    @property
    def is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    async def receive_head(self) -> None:
        """Wait until ``response`` has its status and headers.

        A failure leaves the connection's place in its pool with the caller, who replaces or abandons it.
        """
        while not self.response.status:
            if self.error is not None:
                raise self.error
            await self._wait(self._connection.head_clock_s())
        self._is_head_taken = True

    async def receive_body(self) -> bytes:
        """Wait for body bytes; all that are there, ``b""`` at the end."""
        response = self.response
        while not response.chunks:
            if response.is_complete:
                return b""
            if self.error is not None:
                raise self.error
            try:
                await self._wait(self._read_s)
            except BaseException:
                self.abandon()
                raise
        data = response.take()
        if not self.is_released:
            self._connection.resume_reading()
        return data

    def notify(self) -> None:
        """Wake the reader if what it waits for is there; a drip of framing does not restart its clock."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        response = self.response
        has_new_head = response.status and not self._is_head_taken
        if has_new_head or response.chunks or response.is_complete or self.error is not None:
            waiter.set_result(None)

    def fail(self, error: httpx.RequestError | httpx.StreamClosed) -> None:
        """End the exchange; bytes that arrived before stay readable."""
        self.error = error
        self.notify()

    def abandon(self) -> None:
        """Give up: the connection is closed unless the response is complete. Safe to call at any time, twice too."""
        if not self.is_released:
            self._connection.abandon(self)

    async def _wait(self, timeout_s: float | None) -> None:
        waiter = self._waiter = self._connection.loop.create_future()
        self._connection.arm(timeout_s)
        try:
            await waiter
        finally:
            self._waiter = None


class ResponseBody(httpx.AsyncByteStream):
    """The raw body of a response; closing it before its end closes the connection."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self._exchange.receive_body()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._exchange.abandon()

    def __del__(self) -> None:
        if self._exchange.is_released:
            return
        # A forgotten response must not keep its connection; the collector may run in any thread.
        warnings.warn("an upstream response was dropped without aclose()", ResourceWarning, stacklevel=2)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connection
            self._exchange.loop.call_soon_threadsafe(self._exchange.abandon)
