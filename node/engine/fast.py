"""The fast engine: one asyncio protocol per connection, httptools for the syntax."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp

from node.engine.connection import Connection
from node.engine.contract import ServerOptions
from node.engine.cycle import Cycle

#: libuv takes one client from each listener in a turn of the loop. Turns are long when many streams talk, and where hundreds of clients
#: come, each would wait for as many turns as there are before it. So a socket has several listeners.
_ACCEPTS_PER_TURN = 16


class FastEngine:
    """Serves an ASGI application; keeps its connections and running cycles, strongly."""

    def __init__(self, app: ASGIApp, options: ServerOptions, state: dict[str, Any]) -> None:
        self.app = app
        self.options = options
        self.state = state
        self._loop = asyncio.get_running_loop()
        self.is_announcing = False
        self.is_stopping = False
        self.cycles: set[Cycle] = set()
        self.open_connections: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def in_flight(self) -> int:
        return len(self.cycles)

    @property
    def connections(self) -> int:
        return len(self.open_connections)

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        loop = self._loop
        for sock in sockets:
            sock.setblocking(False)
            self._sockets.append(sock)
            is_unix = sock.family == getattr(socket, "AF_UNIX", None)
            create = loop.create_unix_server if is_unix else loop.create_server
            for _ in range(_ACCEPTS_PER_TURN):
                listener = sock.dup()
                listener.setblocking(False)
                backlog = self.options.backlog
                server = await create(self._connect, sock=listener, backlog=backlog, start_serving=False)
                self._servers.append(server)  # before it serves, for an abort may come at any time
                await server.start_serving()

    async def announce_close(self, announce_s: float) -> None:
        self.is_announcing = True
        try:
            async with asyncio.timeout(announce_s):
                await self._quiet.wait()
        except TimeoutError:
            return

    async def stop_listening(self) -> None:
        self.is_announcing = self.is_stopping = True
        # Who waits in the kernel's queue has perhaps sent a request already; closing the listener would reset them.
        waiting = [client for sock in self._sockets for client in _accept_all(sock)]
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        for client in waiting:
            await self._loop.connect_accepted_socket(self._connect, client)
        for connection in list(self.open_connections):
            connection.close_if_idle()

    async def wait_quiet(self) -> None:
        await self._quiet.wait()

    def cancel_requests(self) -> None:
        for cycle in self.cycles:
            if cycle.task is not None:
                cycle.task.cancel()

    async def close(self) -> None:
        for connection in list(self.open_connections):
            connection.abort()

    # What connections tell.

    def opened(self, connection: Connection) -> None:
        """A connection has been accepted."""
        self.open_connections.add(connection)
        self._quiet.clear()

    def ended(self, connection: Connection) -> None:
        """A connection is gone."""
        self.open_connections.discard(connection)
        self._judge_quiet()

    def run(self, cycle: Cycle) -> None:
        """Call the application for a request."""
        self.cycles.add(cycle)
        cycle.task = self._loop.create_task(cycle.run(self.app))

    def returned(self, cycle: Cycle) -> None:
        """The application call has ended, its connection perhaps long ago."""
        self.cycles.discard(cycle)
        if not self.open_connections:
            self._judge_quiet()

    def _judge_quiet(self) -> None:
        if not self.open_connections and not self.cycles:
            self._quiet.set()

    def _connect(self) -> Connection:
        return Connection(self)


def _accept_all(sock: socket.socket) -> list[socket.socket]:
    """Everybody who waits in the queue of a listening socket."""
    accepted = []
    with suppress(OSError):  # nobody is left, or the socket was closed before
        while True:
            client, _ = sock.accept()
            client.setblocking(False)
            accepted.append(client)
    return accepted
