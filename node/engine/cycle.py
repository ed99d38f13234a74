"""One request and its answer: the `receive` and `send` of an ASGI call.

`send` after the client has left does nothing and costs nothing (ASGI 2.3); that the client has left is told by
`receive`, at once, whether or not somebody was waiting.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

from node.engine.answers import APP_CANCELLED, APP_FAILED, Refusal, refusal_response
from node.engine.request_head import Framing
from node.engine.response_head import ResponseHead, encode_head

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOIN_MAX_BYTES = 64 * 1024  # a larger body is written after its head, not copied behind it
_log = logging.getLogger(__name__)


class Wire(Protocol):
    """What a cycle asks of its connection."""

    write_paused: bool

    def write(self, data: bytes) -> None:
        """Send bytes, now or as soon as the socket takes them."""

    async def drained(self) -> None:
        """Return when the socket takes bytes again, or is lost."""

    def body_taken(self) -> None:
        """The application has taken what was read of the body."""

    def may_keep_alive(self) -> bool:
        """Whether the server would have the connection used again."""

    def answered(self, cycle: Cycle, *, keep_alive: bool) -> None:
        """The response has been written to its end."""

    def cut(self, *, abruptly: bool) -> None:
        """End the connection in the middle of a response; abruptly if an orderly end would look complete."""

    def returned(self, cycle: Cycle) -> None:
        """The application call has ended."""


class _Stage(Enum):
    WAITING = auto()  # no http.response.start yet
    HELD = auto()  # started; the head waits for the first body message, to leave with it
    SENDING = auto()
    DONE = auto()


class Cycle:
    """One request and its answer."""

    __slots__ = (
        "_body_complete",
        "_chunked",
        "_chunks",
        "_close_delimited",
        "_disconnected",
        "_expects_continue",
        "_framing",
        "_head",
        "_keep_alive",
        "_remaining_bytes",
        "_stage",
        "_waiters",
        "_wire",
        "scope",
        "task",
        "unread_bytes",
    )

    def __init__(self, wire: Wire, scope: dict[str, Any], framing: Framing) -> None:
        self.scope = scope
        self.task: asyncio.Task[None] | None = None
        self.unread_bytes = 0
        self._wire = wire
        self._framing = framing
        self._expects_continue = framing.expects_continue
        self._chunks: list[bytes] = []
        self._body_complete = False
        self._disconnected = False
        self._waiters: list[asyncio.Future[None]] = []
        self._stage = _Stage.WAITING
        self._head: ResponseHead | None = None
        self._keep_alive = False
        self._chunked = False
        self._close_delimited = False
        self._remaining_bytes: int | None = None

    async def run(self, app: ASGIApp) -> None:
        """Call the application; answer for it if it fails to."""
        failure = APP_FAILED
        try:
            await app(self.scope, self.receive, self.send)
            if self._stage is not _Stage.DONE and not self._disconnected:
                _log.error("the application left %s %s half answered", self.scope["method"], self.scope["path"])
        except asyncio.CancelledError:
            failure = APP_CANCELLED
            raise
        except Exception:
            _log.exception("the application failed on %s %s", self.scope["method"], self.scope["path"])
        finally:
            if self._stage is not _Stage.DONE:
                self._break_off(failure)
            self._wire.returned(self)

    # What the connection tells.

    def feed(self, chunk: bytes) -> None:
        """A piece of the body has arrived."""
        self._chunks.append(chunk)
        self.unread_bytes += len(chunk)
        self._wake()

    def feed_end(self) -> None:
        """The body is complete."""
        self._body_complete = True
        self._wake()

    def disconnect(self) -> None:
        """The client is gone, or will not be listened to any more."""
        self._disconnected = True
        self._wake()

    def refuse(self, refusal: Refusal) -> None:
        """The rest of the request turned out malformed: answer so if nothing has been sent, else cut."""
        if self._stage is not _Stage.DONE:
            self._break_off(refusal)
        self.disconnect()

    # What the application calls.

    async def receive(self) -> Message:
        if self._expects_continue and self._stage is _Stage.WAITING and not self._body_complete:
            self._wire.write(_CONTINUE)
        self._expects_continue = False
        while True:
            if self._disconnected or self._stage is _Stage.DONE:
                return {"type": "http.disconnect"}
            if self._chunks or (self._body_complete and self.unread_bytes == 0):
                return self._take_body()
            await self._wait()

    async def send(self, message: Message) -> None:
        if self._disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self._stage in _BODY_STAGES:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
            if self._wire.write_paused:
                await self._wire.drained()
        elif kind == "http.response.start" and self._stage is _Stage.WAITING:
            self._head = encode_head(message["status"], message.get("headers", ()))
            self._stage = _Stage.HELD
        else:
            raise RuntimeError(f"{kind!r} is not expected while the response is {self._stage.name}")
