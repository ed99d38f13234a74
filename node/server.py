"""The runner of a node's HTTP server: listening sockets, lifespan, drain in three phases, abort.

The owner of the event loop installs signal handlers and sets the two events of `serve`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from starlette.types import ASGIApp

from node.engine.contract import Engine, ServerOptions
from node.engine.fast import FastEngine
from node.engine.lifespan import Lifespan

__all__ = ["HttpServer", "ServerOptions", "bind_socket", "serve"]

_ABORT_SHUTDOWN_S = 1.0
_log = logging.getLogger(__name__)


def bind_socket(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """A listening TCP socket, to be served here or handed over to a child process.

    Raises:
        OSError: the address cannot be had; the caller says so to a person.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class HttpServer:
    """One ASGI application on listening sockets, from its lifespan's start to its end."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], options: ServerOptions) -> None:
        self._sockets = sockets
        self._options = options
        self._lifespan = Lifespan(app)
        self._engine = _open_engine(app, options, self._lifespan)

    @property
    def in_flight(self) -> int:
        """Requests whose application call has not returned."""
        return self._engine.in_flight

    @property
    def connections(self) -> int:
        """Open connections (with the stock engine: busy ones)."""
        return self._engine.connections

    async def start(self) -> None:
        """Start the application, then accept; what the application raises while starting is passed on."""
        await self._lifespan.start()
        try:
            await self._engine.listen(self._sockets)
        except BaseException:
            await self._lifespan.stop(self._options.shutdown_s)
            raise

    async def drain(self) -> None:
        """Stop without failing anybody.

        First every answer says ``connection: close`` while new connections are still served, because a client that
        finds its kept connection closed has lost its request. Then nothing more is accepted, and what runs may
        finish for ``drain_s``. What still runs then is cancelled. The application's shutdown comes last.
        """
        options, engine = self._options, self._engine
        await engine.announce_close(options.announce_s)
        await engine.stop_listening()
        if not await _within(engine, options.drain_s):
            _log.warning(
                "%d requests still run after %.1f s of draining: cancelled", engine.in_flight, options.drain_s
            )
            engine.cancel_requests()
            await _within(engine, options.cancel_s)
        await engine.close()
        await self._lifespan.stop(options.shutdown_s)

    async def abort(self) -> None:
        """End at once: requests are cancelled, connections cut; the application has one second to shut down."""
        await self._engine.stop_listening()
        self._engine.cancel_requests()
        await asyncio.sleep(0)  # cancelled calls take their first step before their connections go
        await self._engine.close()
        await self._lifespan.stop(_ABORT_SHUTDOWN_S)


async def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    options: ServerOptions,
    *,
    stop: asyncio.Event,
    abort: asyncio.Event,
) -> None:
    """Serve until ``stop`` is set, then drain; ``abort`` ends it at once, also in the middle of a drain."""
    server = HttpServer(app, sockets, options)
    aborted = asyncio.create_task(abort.wait())
    try:
        starting = asyncio.create_task(server.start())
        if await _first(starting, aborted) and await _first(asyncio.create_task(stop.wait()), aborted):
            await _first(asyncio.create_task(server.drain()), aborted)
        if aborted.done():
            await server.abort()
    except asyncio.CancelledError:
        await server.abort()
        raise
    finally:
        aborted.cancel()


async def _first(wanted: asyncio.Task[object], aborted: asyncio.Task[object]) -> bool:
    """Whether ``wanted`` ended before ``aborted``; if not, it is cancelled."""
    try:
        await asyncio.wait({wanted, aborted}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not wanted.done():
            wanted.cancel()
            await asyncio.wait({wanted})
    if not wanted.cancelled():
        wanted.result()
    return not aborted.done()


async def _within(engine: Engine, timeout_s: float) -> bool:
    """Whether the engine became quiet in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await engine.wait_quiet()
    except TimeoutError:
        return False
    return True


def _open_engine(app: ASGIApp, options: ServerOptions, lifespan: Lifespan) -> Engine:
    if options.engine == "fast":
        return FastEngine(app, options, lifespan.state)
    from node.engine.stock import StockEngine  # here, because Hypercorn takes 100 ms to import

    return StockEngine(app, options, lifespan.state)
