"""One client connection of the fast engine: order of requests, flow control, deadlines, and its end.

Requests are answered one after the other. What a client sends ahead is kept unparsed, and beyond a limit unread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import Any, Protocol, cast

from node.engine.answers import Refusal, refusal_response
from node.engine.contract import ServerOptions
from node.engine.cycle import Cycle
from node.engine.deadline import Deadline
from node.engine.reader import RequestReader
from node.engine.request_head import Framing, Headers, RefusedError, build_scope

_STEP_BYTES = 16 * 1024  # the parser cannot be paused: a step bounds how many small requests it reads ahead
_HELD_MAX_BYTES = 64 * 1024
_LINGER_S = 2.0
_NEWCOMER_S = 0.25
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Host(Protocol):
    """The engine, as a connection sees it."""

    options: ServerOptions
    state: dict[str, Any]
    is_announcing: bool
    is_stopping: bool

    def opened(self, connection: Connection) -> None:
        """A connection has been accepted."""

    def ended(self, connection: Connection) -> None:
        """A connection is gone."""

    def run(self, cycle: Cycle) -> None:
        """Call the application for a request."""

    def returned(self, cycle: Cycle) -> None:
        """The application call has ended, its connection perhaps long ago."""


class Connection(asyncio.Protocol):
    """The callbacks of the transport, and what its cycles ask of the wire."""

    def __init__(self, engine: Host) -> None:
        self.write_paused = False
        self._engine = engine
        self._options = engine.options
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(engine.options, self._begin)
        self._deadline = Deadline(self._loop, self._deadline_passed)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        # In order: the request that runs, those parsed ahead, bytes unparsed, what is wrong with those after them.
        self._running: Cycle | None = None
        self._ahead: deque[Cycle] = deque()
        self._held = bytearray()
        self._refusal: Refusal | None = None
        self._head_timed = False
        self._read_paused = False
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._is_new = True  # nothing was asked yet
        self._is_ending = False  # nothing more is read for its meaning
        self._is_lost = False
        self._unsent_bytes = 0
        self._patience_s = engine.options.write_stall_s

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._options.write_high_water_bytes)
        self._client = _address(transport, "peername")
        self._server = _address(transport, "sockname")
        if self._server is not None:
            with suppress(OSError):  # reset already
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline.set(self._options.keep_alive_s)
        self._engine.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        if self._held or len(data) > _STEP_BYTES or self._must_wait():
            self._held += data
            self._parse_held()
        else:
            self._parse(data)
        if self._reader.in_head:
            self._time_head()
        self._steer_reading()

    def eof_received(self) -> None:
        """Half a goodbye is taken for a whole one: nobody pays for tokens that nobody reads."""
        self._stop_reading_requests()
        self._deadline.set(self._options.write_stall_s)
        if self._running is not None:
            self._running.disconnect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self.write_paused = False
        self._stop_reading_requests()
        self._deadline.cancel()
        if self._running is not None:
            self._running.disconnect()
        self._wake_writers()
        self._engine.ended(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._deadline.set(self._options.write_stall_s)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake_writers()
        if not self._is_ending:
            self._deadline.clear()
            if self._running is None:
                self._advance()

    # What cycles ask (Wire).

    def write(self, data: bytes) -> None:
        if not self._is_lost:
            self._transport.write(data)

    async def drained(self) -> None:
        waiter = self._loop.create_future()
        self._drain_waiters.append(waiter)
        try:
            await waiter
        finally:
            self._drain_waiters.remove(waiter)

    def body_taken(self) -> None:
        if self._read_paused:
            self._steer_reading()

    def may_keep_alive(self) -> bool:
        return not self._engine.is_announcing

    def answered(self, cycle: Cycle, *, keep_alive: bool) -> None:
        self._running = None
        if self._is_ending:
            return
        if not keep_alive:
            self._end()
        elif not self.write_paused:
            self._advance()

    def cut(self, *, abruptly: bool) -> None:
        self._running = None
        if abruptly:
            self._reset()
        else:
            self._patience_s = _LINGER_S  # for the rest of an answer that is worth nothing
            self._end()

    def returned(self, cycle: Cycle) -> None:
        self._engine.returned(cycle)

    # What the engine asks.

    def close_if_idle(self) -> None:
        """Close unless a request runs, or has begun to arrive.

        Who has just come has a request on its way: a client that opens a connection does so to ask.
        """
        if self._running is not None or self._ahead or self._held or self._reader.in_head:
            return
        if self._is_new:
            self._deadline.set(_NEWCOMER_S)
        else:
            self._end()

    def abort(self) -> None:
        """Cut the connection, unsent bytes and all."""
        self._stop_reading_requests()
        self._transport.abort()

    # Reading.

    def _must_wait(self) -> bool:
        """Whether what arrives now belongs to a request whose turn has not come."""
        if self._running is None:
            return self.write_paused or bool(self._ahead)
        return self._reader.cycle is not self._running

    def _parse_held(self) -> None:
        held = self._held
        while held and not self._must_wait():
            step = bytes(held[:_STEP_BYTES])
            del held[:_STEP_BYTES]
            self._parse(step)

    def _parse(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except RefusedError as error:
            self._refuse(error.refusal)

    def _begin(self, method: bytes, target: bytes, version: str, headers: Headers, framing: Framing) -> Cycle:
        """The reader has a request's head: its turn comes now, or after those before it."""
        scope = build_scope(
            method,
            target,
            version=version,
            headers=headers,
            client=self._client,
            server=self._server,
            state=self._engine.state,
        )
        cycle = Cycle(self, scope, framing)
        if self._running is None:
            self._run(cycle)
        else:
            self._ahead.append(cycle)
        return cycle

    def _refuse(self, refusal: Refusal) -> None:
        """Nothing after this point can be understood: answer what came before, then say so and end."""
        broken, self._reader.cycle = self._reader.cycle, None
        self._held.clear()
        self._refusal = refusal
        if broken is not None and broken is self._running:
            broken.refuse(refusal)
            return
        if broken is not None:
            self._ahead.remove(broken)
        if self._running is None:
            self._advance()

    def _steer_reading(self) -> None:
        """Stop reading from a client that sends faster than it is served, and go on when it has been served."""
        cycle = self._reader.cycle
        unread_bytes = 0 if cycle is None else cycle.unread_bytes
        is_full = len(self._held) > _HELD_MAX_BYTES or unread_bytes > self._options.max_unread_body_bytes
        if is_full and not self._read_paused and not self._is_ending:
            self._read_paused = True
            self._transport.pause_reading()
        elif self._read_paused and not is_full:
            self._resume_reading()

    def _resume_reading(self) -> None:
        self._read_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # Order.

    def _run(self, cycle: Cycle) -> None:
        self._running = cycle
        self._is_new = False
        self._head_timed = False
        self._deadline.clear()
        self._engine.run(cycle)

    def _advance(self) -> None:
        """The wire is free: the next request, or the pending refusal, or idleness."""
        if self._ahead:
            self._run(self._ahead.popleft())
        elif self._refusal is not None:
            self.write(refusal_response(self._refusal))
            self._end()
        if self._held:  # perhaps the rest of the body of the request that begins to run
            self._parse_held()
            self._steer_reading()
        if self._running is None and not self._is_ending:
            self._idle()

    def _idle(self) -> None:
        if self._reader.in_head:
            self._head_timed = False
            self._time_head()
        elif self._engine.is_stopping:
            self._end()
        else:
            self._deadline.set(self._options.keep_alive_s)

    def _time_head(self) -> None:
        """A head has its time from its first bytes on, however often more of them arrive."""
        if not self._head_timed and self._running is None:
            self._head_timed = True
            self._deadline.set(self._options.head_s)

    # The end.

    def _end(self) -> None:
        """End in good order: what has been written is delivered.

        Closing a socket with unread bytes in it makes the kernel send a reset, which destroys the answer on its way;
        so the sending half is closed first, and what still arrives is read and dropped for a moment.
        """
        is_unread = self._reader.cycle is not None or bool(self._held) or self._refusal is not None
        self._stop_reading_requests()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        if is_unread and not self._transport.is_closing() and self._transport.can_write_eof():
            self._resume_reading()
            self._transport.write_eof()
            self._patience_s = _LINGER_S
        else:
            self._transport.close()
        if not self._is_lost:
            self._deadline.set(self._patience_s)

    def _reset(self) -> None:
        """End with a reset, which no client takes for the end of a body; closing alone would look like one."""
        with suppress(OSError):
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.abort()

    def _stop_reading_requests(self) -> None:
        self._is_ending = True
        self._reader.close()
        self._reader.cycle = None
        self._ahead.clear()
        self._held.clear()

    def _deadline_passed(self) -> None:
        if self._is_ending or self.write_paused:
            self._judge_stall()
        elif self._running is not None:
            return
        elif self._reader.in_head:
            self._refuse(Refusal(408, f"The request head took longer than {self._options.head_s:g} s."))
        else:
            self._end()

    def _judge_stall(self) -> None:
        """A slow client may go on as long as it takes something; one that takes nothing is cut off."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if 0 < unsent_bytes < self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._deadline.set(self._patience_s)
        else:
            self.abort()

    def _wake_writers(self) -> None:
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)


def _address(transport: asyncio.BaseTransport, end: str) -> tuple[str, int] | None:
    """Host and port of one end; None on a unix socket, and for a client that was gone before it was accepted."""
    address = transport.get_extra_info(end)
    return (address[0], address[1]) if isinstance(address, tuple) else None
