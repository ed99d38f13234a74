"""A server whose every byte is scripted by the test: one coroutine per connection, and a record of what arrived."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SeenRequest:
    """A request as it came over the wire."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((value for given, value in self.headers if given.lower() == name), None)


@dataclass(eq=False)
class Peer:
    """One accepted connection, ``number`` from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: ScriptedServer
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_request(self) -> SeenRequest:
        """Read one request with a content-length body; IncompleteReadError when the client is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (entry.partition(b":") for entry in rest)]
        length = int(next((value for name, value in headers if name.lower() == b"content-length"), b"0"))
        request = SeenRequest(line, headers, await self.reader.readexactly(length))
        self.server.requests.append(request)
        self.server.arrived.set()
        return request

    async def send(self, *parts: bytes) -> None:
        """Write the parts, each with a turn of the loop behind it so that they travel apart."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_gone(self) -> None:
        """Wait until the client closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Runs the script for every connection; ``arrived`` is set by each request."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.requests: list[SeenRequest] = []
        self.arrived = asyncio.Event()
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/v1/chat/completions?trace=a%20b"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(self.peers) + 1, reader, writer, self)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            peer.closed.set()
            writer.transport.abort()
            self._tasks.discard(task)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@contextlib.asynccontextmanager
async def scripted_server(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Listen on an ephemeral port of the loopback while the block runs."""
    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.accept, server.host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        listener.close()
        await server.end()


def answer(body: bytes = b"{}", *, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    """A plain response with content-length."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


def always(*parts: bytes) -> Script:
    """A script that gives every request the same bytes and keeps the connection."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(*parts)

    return script
