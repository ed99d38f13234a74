"""The stock engine: Hypercorn's `serve`, one process, behind our own count of requests and our own deadlines.

Hypercorn keeps its connections to itself, so `connections` counts the busy ones only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any, cast

from hypercorn.asyncio import serve
from hypercorn.config import Config, Sockets
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.engine.answers import APP_CANCELLED, APP_FAILED, Refusal, refusal_body, refusal_headers
from node.engine.contract import ServerOptions

_log = logging.getLogger(__name__)


class _InheritedSockets(Config):
    """A Hypercorn configuration that listens on sockets it is given."""

    def __init__(self, sockets: Sequence[socket.socket], options: ServerOptions) -> None:
        self._sockets = list(sockets)
        self.accesslog = None
        self.errorlog = logging.getLogger("hypercorn.error")
        self.backlog = options.backlog
        self.include_server_header = False
        self.keep_alive_timeout = options.keep_alive_s
        self.keep_alive_max_requests = sys.maxsize  # lowered to 0 by a drain
        self.h11_max_incomplete_size = options.max_head_bytes
        # The runner cancels requests at drain_s; this is only for what is left of their connections then.
        self.graceful_timeout = options.drain_s + options.cancel_s

    def create_sockets(self) -> Sockets:
        for sock in self._sockets:
            sock.setblocking(False)
        return Sockets([], self._sockets, [])


class StockEngine:
    """Serves an ASGI application with Hypercorn."""

    def __init__(self, app: ASGIApp, options: ServerOptions, state: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        self._state = state
        self._tasks: set[asyncio.Task[Any]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._listening = asyncio.Event()
        self._stop = asyncio.Event()
        self._config: _InheritedSockets | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        self._config = _InheritedSockets(sockets, self._options)
        # Hypercorn types the application by its own TypedDicts; the shapes are the same.
        serving = serve(cast(Any, self._call), self._config, shutdown_trigger=self._stop.wait, mode="asgi")
        self._serving = asyncio.create_task(serving, name="hypercorn")
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            self._serving.result()

    async def announce_close(self, announce_s: float) -> None:
        if self._config is not None:
            self._config.keep_alive_max_requests = 0
        await asyncio.sleep(announce_s)

    async def stop_listening(self) -> None:
        self._stop.set()

    async def wait_quiet(self) -> None:
        await self._quiet.wait()

    def cancel_requests(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self._stop.set()
        if self._serving is None:
            return
        # On Python 3.12 and later Hypercorn awaits every open connection before its own deadline begins.
        await asyncio.wait({self._serving}, timeout=self._options.cancel_s)
        if not self._serving.done():
            self._serving.cancel()
            await asyncio.wait({self._serving}, timeout=self._options.cancel_s)
        if self._serving.done() and not self._serving.cancelled() and (error := self._serving.exception()):
            _log.error("hypercorn ended with an error", exc_info=error)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._call_http(scope, receive, send)
            case "lifespan":
                await self._call_lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})

    async def _call_lifespan(self, receive: Receive, send: Send) -> None:
        """The runner has started the application already; Hypercorn only learns that all is well."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        self._listening.set()
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _call_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        self._quiet.clear()
        try:
            if refusal := self._refuse(scope):
                await _answer(refusal, send)
            else:
                scope["state"] = self._state.copy()
                await _guarded(self._app, scope, receive, send)
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._quiet.set()

    def _refuse(self, scope: Scope) -> Refusal | None:
        """What Hypercorn and h11 let through and a node does not: HTTP/2, tunnels, two framings, endless heads."""
        version, headers = scope["http_version"], scope["headers"]
        if version not in {"1.0", "1.1"}:
            return Refusal(505, "HTTP/1.1 is spoken here.")
        if scope["method"] == "CONNECT":
            return Refusal(400, "CONNECT is not served here.")
        size_bytes = len(scope["raw_path"]) + sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) > self._options.max_headers or size_bytes > self._options.max_head_bytes:
            return Refusal(431, "The request's headers are too large.")
        names = {name for name, _ in headers}
        if b"transfer-encoding" in names and (b"content-length" in names or version == "1.0"):
            return Refusal(400, "The only framings known are Content-Length and, with HTTP/1.1, chunked.")
        return None


async def _guarded(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the application; what it fails to answer is answered here."""
    started = False

    async def watched_send(message: Message) -> None:
        nonlocal started
        await send(message)
        started = True

    try:
        await app(scope, receive, watched_send)
    except asyncio.CancelledError:
        if not started:
            await _answer(APP_CANCELLED, send)
        raise
    except Exception:
        _log.exception("the application failed on %s %s", scope["method"], scope["path"])
        if not started:
            await _answer(APP_FAILED, send)
    else:
        if not started:
            _log.error("the application did not answer %s %s", scope["method"], scope["path"])
            await _answer(APP_FAILED, send)


async def _answer(refusal: Refusal, send: Send) -> None:
    body = refusal_body(refusal)
    headers = refusal_headers(refusal, body)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
