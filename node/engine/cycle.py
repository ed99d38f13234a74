"""One request and its answer: the `receive` and `send` of an ASGI call.

`send` after the client has left does nothing and costs nothing (ASGI 2.3); that the client has left is told by
`receive`, at once, whether or not somebody was waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

from node.engine.answers import APP_CANCELLED, APP_FAILED, Refusal, refusal_response
from node.engine.contract import ON_DISCONNECT
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


class _Body(Enum):
    NONE = auto()  # HEAD, 204, 304: whatever the application sends is swallowed
    SIZED = auto()
    CHUNKED = auto()
    TO_CLOSE = auto()  # HTTP/1.0: the end of the connection is the end of the body


class Cycle:
    """One request and its answer."""

    __slots__ = (
        "_body",
        "_body_complete",
        "_body_given",
        "_chunks",
        "_disconnected",
        "_expects_continue",
        "_goodbye",
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
        scope["extensions"] = {ON_DISCONNECT: self.on_disconnect}
        self._goodbye: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.unread_bytes = 0
        self._wire = wire
        self._chunks: list[bytes] = []
        self._body_complete = False
        self._body_given = False
        self._disconnected = False
        self._expects_continue = framing.expects_continue
        self._waiters: list[asyncio.Future[None]] = []
        self._stage = _Stage.WAITING
        self._head: ResponseHead | None = None
        self._keep_alive = framing.keep_alive
        self._body = _Body.NONE
        self._remaining_bytes = 0

    async def run(self, app: ASGIApp) -> None:
        """Call the application; answer for it if it fails to."""
        failure = APP_FAILED
        try:
            await app(self.scope, self.receive, self.send)
            if self._stage is not _Stage.DONE and not self._disconnected:
                _log.error(
                    "the application left %s %s half answered", self.scope["method"], self.scope["path"]
                )
        except asyncio.CancelledError:
            failure = APP_CANCELLED
            raise
        except Exception:
            _log.exception("the application failed on %s %s", self.scope["method"], self.scope["path"])
        finally:
            self._break_off(failure)
            self.scope.pop("extensions", None)  # it leads back here, and a ring would wait for the collector
            self._wire.returned(self)

    # What the connection tells.

    def feed(self, chunk: bytes) -> None:
        """A piece of the body has arrived."""
        self._chunks.append(chunk)
        self.unread_bytes += len(chunk)
        if self._waiters:
            self._wake()

    def feed_end(self) -> None:
        """The body is complete."""
        self._body_complete = True
        if self._waiters:
            self._wake()

    def disconnect(self) -> None:
        """The client is gone, or will not be listened to any more."""
        self._disconnected = True
        self._wake()
        goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None and self._stage is not _Stage.DONE:
            goodbye()

    def refuse(self, refusal: Refusal) -> None:
        """The rest of the request turned out malformed: answer so if nothing has been sent, else cut."""
        self._break_off(refusal)
        self.disconnect()

    # What the application calls.

    def on_disconnect(self, goodbye: Callable[[], None] | None) -> None:
        """Have somebody called when the client leaves, at once if it has left; nobody with None."""
        if goodbye is not None and self._disconnected:
            goodbye()
        else:
            self._goodbye = goodbye

    async def receive(self) -> Message:
        if self._expects_continue:
            self._expects_continue = False
            if not self._chunks and not self._body_complete and self._stage in _BEFORE_HEAD:
                self._wire.write(_CONTINUE)
        while not self._disconnected and self._stage is not _Stage.DONE:
            if not self._body_given and (self._chunks or self._body_complete):
                return self._take_body()
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._disconnected:
            return
        kind, stage = message["type"], self._stage
        if kind == "http.response.body" and (stage is _Stage.HELD or stage is _Stage.SENDING):
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
            if self._wire.write_paused:
                await self._wire.drained()
        elif kind == "http.response.start" and stage is _Stage.WAITING:
            self._head = encode_head(message["status"], message.get("headers", ()))
            self._stage = _Stage.HELD
        else:
            raise RuntimeError(f"{kind!r} is not expected while the response is {stage.name}")

    # Request body.

    def _take_body(self) -> Message:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.unread_bytes = 0
        self._body_given = self._body_complete
        self._wire.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self._body_given}

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Response.

    def _send_body(self, body: bytes, *, more: bool) -> None:
        head = b"" if self._stage is _Stage.SENDING else self._open(len(body), more=more)
        data = self._frame(body, more=more)
        self._stage = _Stage.SENDING
        if head and len(data) > _JOIN_MAX_BYTES:
            self._wire.write(head)
            self._wire.write(data)
        elif head or data:
            self._wire.write(b"".join((head, data)))
        if not more:
            self._finish(keep_alive=self._keep_alive)

    def _open(self, size_bytes: int, *, more: bool) -> bytes:
        """Choose the response's framing and encode its head; the first body message is ``size_bytes`` long."""
        assert self._head is not None
        head, framing, is_old = self._head, b"", self.scope["http_version"] == "1.0"
        if self.scope["method"] == "HEAD" or head.status in _WITHOUT_BODY:
            self._body = _Body.NONE
        elif head.content_length is not None or not more:
            self._body = _Body.SIZED
            self._remaining_bytes = size_bytes if head.content_length is None else head.content_length
            if head.content_length is None:
                framing = b"content-length: %d\r\n" % size_bytes
        else:
            self._body = _Body.TO_CLOSE if is_old else _Body.CHUNKED
            framing = b"" if is_old else b"transfer-encoding: chunked\r\n"
        self._keep_alive = self._keep_alive and self._can_keep_alive(head)
        if not self._keep_alive:
            framing += b"connection: close\r\n"
        elif is_old:
            framing += b"connection: keep-alive\r\n"
        return b"%b%b\r\n" % (head.lines, framing)

    def _can_keep_alive(self, head: ResponseHead) -> bool:
        """A half-read request, or a body that ends with the connection, leaves nothing to be used again."""
        if head.wants_close or self._body is _Body.TO_CLOSE or not self._body_complete:
            return False
        return self._wire.may_keep_alive()

    def _frame(self, body: bytes, *, more: bool) -> bytes:
        """The bytes on the wire for one body message."""
        match self._body:
            case _Body.CHUNKED:
                end = b"" if more else b"0\r\n\r\n"
                return b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
            case _Body.SIZED:
                self._remaining_bytes -= len(body)
                if self._remaining_bytes < 0 or (self._remaining_bytes and not more):
                    raise RuntimeError("the response's body is not as long as its content-length says")
                return body
            case _Body.NONE:
                return b""
        return body

    def _finish(self, *, keep_alive: bool) -> None:
        self._stage = _Stage.DONE
        self._wake()
        self._wire.answered(self, keep_alive=keep_alive)

    def _break_off(self, refusal: Refusal) -> None:
        """End an unfinished response: as an error answer if nothing has been sent, else by a cut."""
        if self._disconnected or self._stage is _Stage.DONE:
            return
        if self._stage in _BEFORE_HEAD:
            self._wire.write(refusal_response(refusal, head_only=self.scope["method"] == "HEAD"))
            self._finish(keep_alive=False)
        else:
            self._stage = _Stage.DONE
            self._wake()
            self._wire.cut(abruptly=self._body is _Body.TO_CLOSE)


_BEFORE_HEAD = frozenset({_Stage.WAITING, _Stage.HELD})
_WITHOUT_BODY = frozenset({204, 304})
