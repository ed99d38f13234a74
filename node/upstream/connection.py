"""One HTTP/1.1 connection: bytes out, bytes in, one exchange at a time, one timer for every clock."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

import httpx

from node.upstream.exchange import Exchange
from node.upstream.faults import fault
from node.upstream.wire import Call

# Unread bytes above which the peer is made to wait; one read comes on top. What is read together is also held together
# wherever a slow reader of ours holds it up, several times over, and keeps all others waiting meanwhile. Loops read up to 256 kB at
# once if they are let.
UNREAD_MAX_BYTES = 16 * 1024
_READ_MAX_BYTES = 16 * 1024
# One for all: a loop fills it and says so within one step.
_inbox = memoryview(bytearray(_READ_MAX_BYTES))
# uvloop counts in whole milliseconds, so a timer may fire just before its time.
_TIMER_SLACK_S = 0.002
# A peer that announces its idle limit closes at it; we leave before.
_HINT_MARGIN_S = 1.0


class ConnectionOwner(Protocol):
    """The pool, as a connection sees it."""

    keepalive_expiry_s: float
    max_age_s: float

    def release(self, connection: Connection) -> None:
        """The connection is free for another request."""

    def forget(self, connection: Connection) -> None:
        """The connection is closed. Called any number of times."""


class Connection(asyncio.BufferedProtocol):
    """Carries exchanges one after the other; reports to its owner when it is free or gone.

    Attributes:
        loop: that it lives in.
        is_reused: at least one exchange was completed on it.
        lost: done when the socket is closed.
    """

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self.loop = loop
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._write_s: float | None = None
        self._read_s: float | None = None
        self._unwritten_bytes = 0
        self._is_write_paused = False
        self._is_read_paused = False
        self._opened_at = loop.time()
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.is_reused = False
        self.lost: asyncio.Future[None] = loop.create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, call: Call) -> Exchange:
        """Write a request and return its exchange; a connection that is already closed shows there as an error."""
        exchange = Exchange(self, call)
        transport = self._transport
        if transport is None or transport.is_closing():
            exchange.fail(fault(httpx.ReadError, "the connection is closed", request_sent=False))
            return exchange
        self._exchange = exchange
        self._read_s, self._write_s = call.timeouts.read_s, call.timeouts.write_s
        exchange.is_sent = True
        if len(call.parts) == 1:
            transport.write(call.parts[0])
        else:
            transport.writelines(call.parts)
        if self._is_write_paused:
            self._unwritten_bytes = transport.get_write_buffer_size()
        return exchange

    def head_clock_s(self) -> float | None:
        """The clock that runs now: writing while the peer does not take the request, reading afterwards."""
        return self._write_s if self._is_write_paused else self._read_s

    def abandon(self, exchange: Exchange) -> None:
        """Close under an exchange that its reader gives up."""
        exchange.is_released = True
        if exchange.response.chunks:
            exchange.response.take()
        exchange.fail(httpx.StreamClosed())
        self._exchange = None
        self.close()

    def close(self) -> None:
        """Close at once; an exchange under way fails."""
        if self._exchange is not None:
            self._fail(fault(httpx.ReadError, "the transport was closed", request_sent=True))
        self._abort()
        self._owner.forget(self)

    def resume_reading(self) -> None:
        if self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = False
            self._transport.resume_reading()

    def arm(self, delay_s: float | None) -> None:
        """Set the one clock. The loop's timer is moved only when it would ring too late."""
        self._deadline = math.inf if delay_s is None else self.loop.time() + delay_s
        if self._deadline < self._timer_at:
            self._schedule()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _inbox

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # nobody asked: what follows could be taken for the next answer
            return
        response = exchange.response
        try:
            response.feed(_inbox[:nbytes].tobytes())
        except httpx.RemoteProtocolError as error:
            self._fail(error)
            return
        if response.is_complete:
            self._finish(exchange)
        elif response.unread_bytes > UNREAD_MAX_BYTES:
            self._pause_reading()
        exchange.notify()

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._exchange is not None and self._exchange.is_waiting:
            self.arm(self._read_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)
        exchange = self._exchange
        if exchange is None:
            self._owner.forget(self)
            return
        exchange.is_stale = self.is_reused and not exchange.response.has_bytes
        try:
            self._end_by_peer(exchange, exc)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            self._fail(error)

    def _end_by_peer(self, exchange: Exchange, exc: Exception | None) -> None:
        if exc is not None:
            kind = httpx.WriteError if self._is_write_paused else httpx.ReadError
            raise fault(kind, f"the connection was lost: {exc}", request_sent=True) from exc
        exchange.response.feed_eof()
        self._finish(exchange)
        exchange.notify()

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        exchange.is_released = True
        if not self._may_be_reused(exchange):
            self.close()
            return
        self.is_reused = True
        hint_s = exchange.response.keepalive_hint_s
        expiry_s = self._owner.keepalive_expiry_s
        self.arm(expiry_s if hint_s is None else min(expiry_s, max(0.0, hint_s - _HINT_MARGIN_S)))
        self.resume_reading()
        self._owner.release(self)

    def _may_be_reused(self, exchange: Exchange) -> bool:
        if not exchange.response.is_reusable or self._transport is None or self._transport.is_closing():
            return False
        # An early answer leaves the rest of the request in the pipe, in front of the next one.
        is_written = self._transport.get_write_buffer_size() == 0
        return is_written and self.loop.time() - self._opened_at < self._owner.max_age_s

    def _fail(self, error: httpx.RequestError) -> None:
        """End the exchange with an error. Before the head, its sender still decides about our place in the pool."""
        exchange, self._exchange = self._exchange, None
        self._abort()
        if exchange is None:
            return
        if exchange.response.status:
            exchange.is_released = True
            self._owner.forget(self)
        exchange.fail(error)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause_reading(self) -> None:
        if not self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = True
            self._transport.pause_reading()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._deadline == math.inf:
            return
        if self._deadline - self.loop.time() > _TIMER_SLACK_S:
            self._schedule()
        elif self._exchange is None:
            self.close()
        elif self._exchange.is_waiting:
            self._on_deadline()

    def _on_deadline(self) -> None:
        if not self._is_write_paused:
            self._fail(fault(httpx.ReadTimeout, "the upstream was silent for too long", request_sent=True))
        elif self._has_write_progress():
            self.arm(self._write_s)
        else:
            self._fail(fault(httpx.WriteTimeout, "the upstream does not take the request", request_sent=True))

    def _has_write_progress(self) -> bool:
        assert self._transport is not None  # only a request that was written can wait for being taken
        before, self._unwritten_bytes = self._unwritten_bytes, self._transport.get_write_buffer_size()
        return self._unwritten_bytes < before
