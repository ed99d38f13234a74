"""The load driver: raw HTTP/1.1 connections, in a closed loop or at a pace, that look at every answer.

It costs some 20 us a request, so that one core of it and of the mock can keep a core of a Python subject busy.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, cast

import httptools

from benchmarks.scenarios import Scenario, Target

#: How long after its end a window waits for the answers that are still on their way.
GRACE_S: Final = 15.0
_FAULTS_KEPT: Final = 5
_DONE: Final = b"data: [DONE]\n\n"
_EVENT: Final = b"data: "


class DriverError(Exception):
    """No connection could be made."""


@dataclass(slots=True)
class Window:
    """What a stretch of load has brought.

    Attributes:
        elapsed_s: from the first request to the last byte of the last answer.
        latencies_s: of each request, to the last byte.
        first_s: of each request, to the first content; for a plain answer, to the first byte of the body.
        reconnects: connections that the server closed between two requests.
        faults: what was wrong with answers, the first few; any one makes the window void.
    """

    elapsed_s: float = 0.0
    requests: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    first_s: array[float] = field(default_factory=lambda: array("d"))
    reconnects: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_void(self) -> bool:
        return bool(self.faults) or not self.requests


class Driver:
    """Holds a scenario's connections to one server, for any number of windows. An async context manager.

    Args:
        counts_events: a stream must have exactly as many events as the mock has sent.
        seed: of the times of a paced scenario.
    """

    def __init__(
        self, target: Target, scenario: Scenario, *, counts_events: bool = True, seed: int = 1
    ) -> None:
        self.scenario = scenario
        self.turns = [(turn, turn.request(target)) for turn in scenario.turns]
        self.counts_events = counts_events
        self.window = Window()
        self.until = 0.0
        self._draw = random.Random(seed)
        self._port = target.port
        self._loop = asyncio.get_running_loop()
        self._clients: list[_Client] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._finished = asyncio.Event()

    async def __aenter__(self) -> Driver:
        try:
            for number in range(self.scenario.connections):
                self._clients.append(await self._connect(number))
        except OSError as error:
            await self._close()
            raise DriverError(f"127.0.0.1:{self._port} does not take connections: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def run(self, seconds: float) -> Window:
        """Load for `seconds`, and until the answers that are on their way then have come."""
        window = self.window = Window()
        self._busy = len(self._clients)
        self._finished.clear()
        started = time.perf_counter()
        self.until = started + seconds
        for number, client in enumerate(self._clients):
            client.due = started + number * self.scenario.stagger_s
            self.ask_again(client)
        try:
            async with asyncio.timeout(seconds + GRACE_S):
                await self._finished.wait()
        except TimeoutError:
            self.note_fault(f"{self._busy} answers did not come within {GRACE_S:.0f} s")
        window.elapsed_s = time.perf_counter() - started
        return window

    def ask_again(self, client: _Client) -> None:
        """The next request of a connection, now or when it is due; none after the end of the window."""
        now, rate = time.perf_counter(), self.scenario.rate_per_s
        if rate:
            client.due += self._draw.expovariate(rate / self.scenario.connections)
        if max(now, client.due) >= self.until:
            self.note_idle()
        elif client.due > now:
            self._loop.call_later(client.due - now, self._ask_on_time, client)
        else:
            self._ask(client)

    def _ask_on_time(self, client: _Client) -> None:
        if time.perf_counter() < self.until:
            self._ask(client)
        else:
            self.note_idle()

    def _ask(self, client: _Client) -> None:
        if client.is_closed.done():
            self.replace(client)  # the server has given up a connection that was idle
        else:
            client.ask()

    def note_fault(self, what: str) -> None:
        """Book a fault; further requests would only cost time."""
        self.until = 0.0
        if len(self.window.faults) < _FAULTS_KEPT:
            self.window.faults.append(what)

    def note_idle(self) -> None:
        """A connection asks no more in this window."""
        self._busy -= 1
        if self._busy <= 0:
            self._finished.set()

    def replace(self, client: _Client) -> None:
        """Let a connection that the server has closed between two requests ask again on a new one."""
        self.window.reconnects += 1
        task = self._loop.create_task(self._replace(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, client: _Client) -> None:
        client.close()
        place = self._clients.index(client)
        try:
            self._clients[place] = await self._connect(client.turn)
        except OSError as error:
            self.note_fault(f"no new connection: {error}")
            self.note_idle()
        else:
            self._clients[place].due = client.due
            self.ask_again(self._clients[place])

    async def _connect(self, turn: int) -> _Client:
        _, client = await self._loop.create_connection(lambda: _Client(self, turn), "127.0.0.1", self._port)
        return client

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.close()
        if self._clients:
            await asyncio.wait([client.is_closed for client in self._clients])


class _Client(asyncio.Protocol):
    """One connection: asks, takes the answer apart, judges it, asks again.

    Attributes:
        turn: which one of the mix comes next.
        due: when the next request is to be sent.
    """

    def __init__(self, driver: Driver, turn: int) -> None:
        self.turn = turn
        self.due = 0.0
        self.is_closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._driver = driver
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._is_asking = False
        self._asked = self._first = 0.0
        self._events = 0

    # the driver's side

    def ask(self) -> None:
        """Send the next request."""
        turns = self._driver.turns
        self._scenario, request = turns[self.turn % len(turns)]
        self.turn += 1
        self._is_asking = True
        self._first, self._events = 0.0, 0
        self._asked = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        self._is_asking = False
        self._transport.abort()

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed.set_result(None)
        if self._is_asking:
            self._fail(f"the connection was lost before the end of the answer ({exc or 'closed'})")

    # the parser's side

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._events += body.count(_EVENT)
            if self._events > 1 or not self._scenario.is_stream:  # the first event opens, without content
                self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        driver, body = self._driver, b"".join(self._body)
        self._body.clear()
        status = self._parser.get_status_code()
        if fault := judge(status, body, self._scenario, counts_events=driver.counts_events):
            self._fail(fault)
            return
        window = driver.window
        window.requests += 1
        window.latencies_s.append(now - self._asked)
        window.first_s.append(self._first - self._asked)
        self._is_asking = False
        if self._parser.should_keep_alive():
            driver.ask_again(self)
        else:
            driver.replace(self)

    def _fail(self, what: str) -> None:
        if self._is_asking:
            self._is_asking = False
            self._driver.note_fault(what)
            self._driver.note_idle()


def judge(status: int, body: bytes, scenario: Scenario, *, counts_events: bool = True) -> str | None:
    """What is wrong with an answer."""
    if status != 200:
        return f"status {status}: {body[:200].decode(errors='replace')}"
    if not scenario.is_stream:
        is_whole = body.startswith(b"{") and body.rstrip().endswith(b"}") and b'"usage"' in body
        return None if is_whole else f"not a whole answer: {body[-100:].decode(errors='replace')}"
    if not body.endswith(_DONE):
        return f"the stream ends with {body[-60:].decode(errors='replace')!r}"
    events = body.count(_EVENT)
    if events != scenario.events and (counts_events or events <= scenario.chunks):
        return f"{events} events where {scenario.events} were sent"
    return None
