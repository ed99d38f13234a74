"""Calls of an ASGI application in this process, as a transport of httpx.

Answers stream: a chunk is there for the caller as soon as the application has sent it, and the application waits for a caller who does not
take them. Who stops listening has left, which the application hears at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import httpx
from starlette.types import ASGIApp, Message

from modelmesh.errors import MeshClosedError, WrongLoopError
from node.engine.contract import ON_DISCONNECT

#: As much waits for a caller before the application does; as in the engines.
_HIGH_WATER_BYTES: Final = 64 * 1024
#: A caller who takes nothing for so long has left, whatever keeps the answer alive.
_STALL_S: Final = 120.0
#: How long cancelled calls may take to say goodbye, as in the engines.
_CANCEL_S: Final = 1.0
_HEADERS_OF_ALL: Final = {"http_version": b"HTTP/1.1"}
_log = logging.getLogger(__name__)


class Exchange:
    """One call: `receive` and `send` of the application on one side, the answer on the other."""

    def __init__(self, request: httpx.Request) -> None:
        self.scope = _scope_of(request)
        self.scope["extensions"] = {ON_DISCONNECT: self.on_disconnect}
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_over = False
        self._body: AsyncIterator[bytes] | None = _chunks_of(request)
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_complete = False
        self._is_gone = False
        self._fault = ""
        self._goodbye: Callable[[], None] | None = None
        self._for_caller = asyncio.Event()
        self._for_application = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        """Call the application to its end; what it raises is logged, and told to the caller as a broken answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fault = "the mesh was closed before the answer was complete"
            raise
        except Exception as error:
            self._fault = f"the node failed: {type(error).__name__}"
            _log.exception("the application failed on %s %s", self.scope["method"], self.scope["path"])
        finally:
            self.is_over = True
            self._goodbye = None
            self.scope.pop("extensions", None)  # it leads back here, and a ring would wait for the collector
            self._for_caller.set()

    # What the application calls.

    def on_disconnect(self, goodbye: Callable[[], None] | None) -> None:
        """Have somebody called when the caller leaves, at once if he has left; nobody with None."""
        if goodbye is not None and self._is_gone:
            goodbye()
        else:
            self._goodbye = goodbye

    async def receive(self) -> Message:
        while not (self._is_gone or self._is_complete):
            if self._body is not None:
                return await self._read()
            self._for_application.clear()
            await self._for_application.wait()
        return {"type": "http.disconnect"}

    async def _read(self) -> Message:
        assert self._body is not None
        try:
            return {"type": "http.request", "body": await anext(self._body), "more_body": True}
        except StopAsyncIteration:
            self._body = None
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if self._is_gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.status:
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif kind == "http.response.body" and self.status and not self._is_complete:
            self._hold(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            self._for_caller.set()
            if self._waiting_bytes > _HIGH_WATER_BYTES:
                await self._until_taken()
        else:
            raise RuntimeError(f"{kind!r} is not expected now")

    def _hold(self, body: bytes) -> None:
        if body:
            self._chunks.append(body)
            self._waiting_bytes += len(body)

    async def _until_taken(self) -> None:
        try:
            async with asyncio.timeout(_STALL_S):
                while self._waiting_bytes > _HIGH_WATER_BYTES and not self._is_gone:
                    self._for_application.clear()
                    await self._for_application.wait()
        except TimeoutError:
            self.leave()

    # What the caller calls.

    async def until_begun(self, *, within_s: float | None) -> None:
        """Wait for the head of the answer.

        Raises:
            httpx.ReadTimeout, httpx.RemoteProtocolError: it did not come in time, or will not come.
        """
        while not (self._chunks or self._is_complete):
            if self.is_over and not self.status:
                raise httpx.RemoteProtocolError(self._fault or "the node ended a call without an answer")
            if self.is_over:
                return
            await self._news(within_s)

    async def take(self, *, within_s: float | None) -> bytes:
        """All that has come since; empty at the end.

        Raises:
            httpx.ReadTimeout, httpx.RemoteProtocolError: nothing came in time, or the answer broke off.
        """
        while not self._chunks and not self._is_complete:
            if self.is_over:
                raise httpx.RemoteProtocolError(self._fault or "the node broke the answer off")
            await self._news(within_s)
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        self._for_application.set()
        return data

    def leave(self) -> None:
        """The caller listens no more. May be called twice."""
        if self._is_gone or self.is_over:
            return
        self._is_gone = True
        self._chunks.clear()
        self._for_application.set()
        goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None and not self._is_complete:
            goodbye()

    async def _news(self, within_s: float | None) -> None:
        self._for_caller.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._for_caller.wait()
        except TimeoutError:
            raise httpx.ReadTimeout(f"nothing came from the mesh for {within_s:g} s") from None


class Calls:
    """All calls of one application, in the event loop that it lives in.

    Attributes:
        loop: the running one at the time of making.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.loop = asyncio.get_running_loop()
        self._app = app
        self._pid = os.getpid()
        self._running: set[asyncio.Task[None]] = set()
        self._refusal: str | None = None

    def begin(self, request: httpx.Request) -> Exchange:
        """Start a call.

        Raises:
            MeshClosedError: no more calls are taken.
            WrongLoopError: this is another event loop.
        """
        if self._refusal is not None:
            raise MeshClosedError(self._refusal)
        self.check_process()
        if asyncio.get_running_loop() is not self.loop:
            raise WrongLoopError(
                "this client belongs to the event loop in which its mesh was initialized; elsewhere use mesh.sync_client()"
            )
        exchange = Exchange(request)
        task = self.loop.create_task(exchange.run(self._app), name="modelmesh call")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return exchange

    def check_process(self) -> None:
        """Raises MeshClosedError in a child that was forked: connections and tasks stayed with its parent."""
        if os.getpid() != self._pid:
            raise MeshClosedError(
                "this mesh belongs to the process that this one was forked from; make one here"
            )

    def refuse(self, why: str) -> None:
        """Take no more calls."""
        self._refusal = self._refusal or why

    async def end(self, *, within_s: float) -> None:
        """Wait for those that run; what still runs then is cancelled."""
        if self._running and within_s > 0:
            await asyncio.wait(self._running, timeout=within_s)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_CANCEL_S)


class InProcessTransport(httpx.AsyncBaseTransport):
    """Sends requests to the application of `calls`; connect and pool timeouts have no meaning here.

    Args:
        token: what stands in for the placeholder in ``Authorization``, if anything does.
    """

    def __init__(self, calls: Calls, *, token: Callable[[], str | None] = lambda: None) -> None:
        self.calls = calls
        self._token = token

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, once its head is there."""
        within_s = _read_timeout(request)
        self._authorize(request)
        exchange = self.calls.begin(request)
        try:
            await exchange.until_begun(within_s=within_s)
        except BaseException:
            exchange.leave()
            raise
        return httpx.Response(
            exchange.status,
            headers=exchange.headers,
            stream=AnswerStream(exchange, within_s=within_s),
            extensions=dict(_HEADERS_OF_ALL),
        )

    def _authorize(self, request: httpx.Request) -> None:
        if request.headers.get("authorization") == f"Bearer {PLACEHOLDER}" and (token := self._token()):
            request.headers["authorization"] = f"Bearer {token}"


#: The key of clients that were given none.
PLACEHOLDER: Final = "in-process"


class AnswerStream(httpx.AsyncByteStream):
    """The body of an answer; closing it before its end tells the application that the caller has left."""

    def __init__(self, exchange: Exchange, *, within_s: float | None) -> None:
        self._exchange = exchange
        self._within_s = within_s
        self._loop = asyncio.get_running_loop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.take():
            yield data

    async def take(self) -> bytes:
        """The next bytes; empty at the end."""
        return await self._exchange.take(within_s=self._within_s)

    async def aclose(self) -> None:
        self._exchange.leave()

    def __del__(self) -> None:
        """An answer that was let go of half read has nobody who would close it, and the collector may run in any thread."""
        if not self._exchange.is_over:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._exchange.leave)


def _scope_of(request: httpx.Request) -> dict[str, Any]:
    path, _, query = request.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": None,
        "server": None,
        "state": {},
    }


async def _chunks_of(request: httpx.Request) -> AsyncIterator[bytes]:
    assert isinstance(request.stream, httpx.AsyncByteStream)
    async for chunk in request.stream:
        yield chunk


def _read_timeout(request: httpx.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("read")
