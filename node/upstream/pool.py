"""The connections to one origin: how many, which are idle, who waits for one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypedDict

import httpx

from node.upstream.connection import Connection, ConnectionOwner
from node.upstream.faults import fault
from node.upstream.wire import Timeouts

Dial = Callable[[ConnectionOwner], Awaitable[Connection]]


class OriginStats(TypedDict):
    open: int
    idle: int
    in_use: int
    waiting: int


class OriginPool:
    """At most ``limit`` connections, newest idle one first, waiters served in the order they came.

    A place is taken from the moment dialling begins until the connection is forgotten. Whoever frees a place or a
    connection gives it straight to the first waiter, so nobody can overtake and nothing is counted twice.
    """

    def __init__(self, dial: Dial, *, limit: int, keepalive_expiry_s: float, max_age_s: float) -> None:
        self._dial = dial
        self._limit = limit
        self.keepalive_expiry_s = keepalive_expiry_s
        self.max_age_s = max_age_s
        self._dialling = 0
        self._dial_clocks: set[asyncio.Timeout] = set()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        # A waiter receives a connection, or None: a place to dial into.
        self._waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        return not (self._dialling or self._connections or self._waiters)

    def stats(self) -> OriginStats:
        open_count, idle = self._dialling + len(self._connections), len(self._idle)
        return OriginStats(open=open_count, idle=idle, in_use=open_count - idle, waiting=len(self._waiters))

    async def acquire(self, timeouts: Timeouts) -> Connection:
        """Return a connection for one exchange.

        Raises:
            httpx.PoolTimeout: none became free in time.
            httpx.ConnectError: no new one could be opened, or the transport is closed.
            httpx.ConnectTimeout: opening one took too long.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeouts.pool_s is None else loop.time() + timeouts.pool_s
        while True:
            if self._is_closed:
                raise _closed()
            if self._idle:
                connection: Connection | None = self._idle.pop()
            elif self._dialling + len(self._connections) < self._limit:
                self._dialling += 1
                connection = None
            else:
                connection = await self._wait(deadline)
            if connection is None:
                return await self._open(timeouts.connect_s)
            if connection.is_open:
                return connection
            self.forget(connection)  # it closed on its way to us

    async def replace(self, connection: Connection, connect_s: float | None) -> Connection:
        """Dial anew in the place of a dead connection, which its exchange still holds."""
        self._connections.discard(connection)
        self._dialling += 1
        return await self._open(connect_s)

    def release(self, connection: Connection) -> None:
        if self._is_closed:
            connection.close()
        elif waiter := self._next_waiter():
            waiter.set_result(connection)
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._pass_place_on()

    async def aclose(self) -> None:
        """Close everything, also what is in use, and wait until the sockets are gone."""
        self._is_closed = True
        while waiter := self._next_waiter():
            waiter.set_exception(_closed())
        for clock in self._dial_clocks:
            if not clock.expired():
                clock.reschedule(0.0)
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.lost for connection in connections], timeout=1.0)

    async def _open(self, connect_s: float | None) -> Connection:
        """Dial into a place that is already counted."""
        try:
            connection = await self._dial_within(connect_s)
        except BaseException:
            self._dialling -= 1
            self._pass_place_on()
            raise
        self._dialling -= 1
        self._connections.add(connection)
        if self._is_closed:
            connection.close()
            raise _closed()
        return connection

    async def _dial_within(self, connect_s: float | None) -> Connection:
        try:
            async with asyncio.timeout(connect_s) as clock:
                self._dial_clocks.add(clock)
                try:
                    return await self._dial(self)
                finally:
                    self._dial_clocks.discard(clock)
        except TimeoutError as error:
            if self._is_closed:
                raise _closed() from error
            message = f"no connection within {connect_s} s"
            raise fault(httpx.ConnectTimeout, message, request_sent=False) from error

    def _pass_place_on(self) -> None:
        if waiter := self._next_waiter():
            self._dialling += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():  # a cancelled one is still listed until its task runs
                return waiter
        return None

    async def _wait(self, deadline: float | None) -> Connection | None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters[waiter] = None
        timer = None if deadline is None else loop.call_at(deadline, _expire, waiter)
        try:
            return await waiter
        except BaseException:
            self._withdraw(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _withdraw(self, waiter: asyncio.Future[Connection | None]) -> None:
        self._waiters.pop(waiter, None)
        if waiter.cancelled() or waiter.exception() is not None:
            return
        # Served and cancelled in the same turn of the loop: what was given goes to the next one.
        connection = waiter.result()
        if connection is not None:
            self.release(connection) if connection.is_open else self.forget(connection)
        else:
            self._dialling -= 1
            self._pass_place_on()


def _expire(waiter: asyncio.Future[Connection | None]) -> None:
    if not waiter.done():
        waiter.set_exception(
            fault(httpx.PoolTimeout, "no connection became free in time", request_sent=False)
        )


def _closed() -> httpx.ConnectError:
    return fault(httpx.ConnectError, "the transport is closed", request_sent=False)
