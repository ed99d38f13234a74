"""Clients of many streams at once: each has a connection of its own, looks at its answer, and may stop reading."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable
from typing import Final, cast

import httptools

_EVENT: Final = b"data: "
_END: Final = b"data: [DONE]\n\n"
#: What the kernel holds for a reader that does not read; small, so that the server's own memory is what grows.
_LAZY_BUFFER_BYTES: Final = 16 * 1024
_FAULTS_KEPT: Final = 5


def allow_descriptors(wanted: int) -> None:
    """Let this process, and those that it starts from now on, open so many.

    Raises:
        OSError: the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise OSError(f"{wanted} descriptors are needed and the system allows {hard}: raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Stream(asyncio.Protocol):
    """One request and the stream that answers it.

    Attributes:
        first_s: from asking to the first content; 0 before.
        heard_at: when something came last, by ``time.perf_counter``.
        fault: what was wrong with the answer, once it has ended.
    """

    __slots__ = (
        "_asked",
        "_events",
        "_on_end",
        "_parser",
        "_tail",
        "_transport",
        "_wanted",
        "fault",
        "first_s",
        "has_ended",
        "heard_at",
        "is_lazy",
    )

    def __init__(self, on_end: Callable[[Stream], None], *, events: int, is_lazy: bool = False) -> None:
        self._on_end = on_end
        self._wanted = events
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._events = 0
        self._tail = b""
        self._asked = time.perf_counter()
        self.is_lazy = is_lazy
        self.first_s = 0.0
        self.heard_at = 0.0
        self.has_ended = False
        self.fault: str | None = None

    def ask(self, request: bytes) -> None:
        """Send the request on the connection that stands."""
        assert self._transport is not None
        self._asked = time.perf_counter()
        self._transport.write(request)

    def leave(self) -> None:
        """Hang up without a word; what has come is not judged any more."""
        self._end(None)

    def read_on(self) -> None:
        """Read after all."""
        self.is_lazy = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.perf_counter()
        if self._parser is not None:
            self._parser.feed_data(data)
        if self.is_lazy and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"lost after {self._events} events: {exc or 'closed'}")

    # the parser's side

    def on_body(self, body: bytes) -> None:
        self._events += body.count(_EVENT)
        if not self.first_s and self._events > 1:  # the first event opens, without content
            self.first_s = self.heard_at - self._asked
        self._tail = body if len(body) >= len(_END) else self._tail + body

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status != 200:
            self._end(f"status {status}: {self._tail[:200].decode(errors='replace')}")
        elif not self._tail.endswith(_END):
            self._end(f"ends with {self._tail[-80:].decode(errors='replace')!r}")
        else:
            self._end(None if self._events == self._wanted else f"{self._events} events of {self._wanted}")

    def _end(self, fault: str | None) -> None:
        if self.has_ended:
            return
        self.has_ended, self.fault = True, fault
        self._parser = None  # it holds our methods
        if self._transport is not None:
            self._transport.abort()
        self._on_end(self)


class Streams:
    """Many streams on one server, all asking the same.

    Args:
        request: as it goes over the wire.
        events: what a whole answer has.
    """

    def __init__(self, port: int, request: bytes, *, events: int) -> None:
        self._port = port
        self._request = request
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.running: set[Stream] = set()
        self.asked = 0
        self.whole = 0
        self.first_s: list[float] = []
        self.faults: list[str] = []
        self.failed = 0

    @property
    def speaking(self) -> int:
        """Streams under way whose first content has come."""
        return sum(stream.first_s > 0 for stream in self.running)

    @property
    def heard(self) -> int:
        """Streams under way that anything has come of."""
        return sum(stream.heard_at > 0 for stream in self.running)

    async def open(self, count: int, *, per_s: float, is_lazy: bool = False) -> None:
        """Ask for so many streams at a steady pace, whether or not earlier ones have been answered."""
        started = self._loop.time()
        for number in range(count):
            due = started + number / per_s
            if (wait_s := due - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            task = self._loop.create_task(self._ask(is_lazy=is_lazy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait(self, condition: Callable[[], bool], *, within_s: float) -> bool:
        """Whether the condition came true in time; looked at whenever a stream ends, and ten times a second."""
        give_up_at = self._loop.time() + within_s
        while not condition():
            if self._loop.time() > give_up_at:
                return False
            self._changed.clear()
            try:
                async with asyncio.timeout(0.1):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return True

    async def finish(self, *, within_s: float) -> None:
        """Wait until all have ended; what has not is a fault."""
        if not await self.wait(lambda: not self.running and not self._tasks, within_s=within_s):
            self._note(f"{len(self.running)} streams did not end within {within_s:.0f} s")
            self.close()

    def close(self) -> None:
        """Hang up everywhere."""
        for task in self._tasks:
            task.cancel()
        for stream in list(self.running):
            self.running.discard(stream)
            stream.leave()

    async def _ask(self, *, is_lazy: bool) -> None:
        stream = Stream(self._on_end, events=self._events, is_lazy=is_lazy)
        self.asked += 1
        self.running.add(stream)
        try:
            sock = await self._connect(is_lazy=is_lazy)
            await self._loop.create_connection(lambda: stream, sock=sock)
        except OSError as error:
            self.running.discard(stream)
            self._note(f"no connection: {error}")
            return
        stream.ask(self._request)

    async def _connect(self, *, is_lazy: bool) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if is_lazy:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LAZY_BUFFER_BYTES)
        try:
            await self._loop.sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _on_end(self, stream: Stream) -> None:
        self._changed.set()
        if stream not in self.running:
            return  # it was left
        self.running.discard(stream)
        if stream.first_s:
            self.first_s.append(stream.first_s)
        if stream.fault is None:
            self.whole += 1
        else:
            self._note(stream.fault)

    def _note(self, fault: str) -> None:
        self.failed += 1
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(fault)
