"""A server under test and a client that sees every byte: the tools of the HTTP conformance suite."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

from node.engine.contract import EngineName
from node.server import HttpServer, ServerOptions, bind_socket

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Message, Receive, Send], Awaitable[None]]

ENGINES: tuple[EngineName, ...] = ("fast", "stock")
EVENT_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
PATIENCE_S = 5.0
QUICK: dict[str, Any] = {"announce_s": 0.02, "drain_s": 5.0, "cancel_s": 0.2}


class RecordingApp:
    """An ASGI application around one handler; remembers what happened in which order."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.scopes: list[Message] = []
        self.log: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        self.scopes.append(scope)
        self.log.append("request")
        await self.handler(scope, receive, send)

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        self.log.append((await receive())["type"])
        scope["state"]["greeting"] = "hello"
        await send({"type": "lifespan.startup.complete"})
        self.log.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})


@dataclass
class Served:
    """A running server and its address."""

    server: HttpServer
    app: RecordingApp
    address: tuple[str, int]

    async def connect(self, *, receive_buffer_bytes: int | None = None) -> Peer:
        """A new connection; a small receive buffer makes a slow reader slow soon."""
        sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only on what says so
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except OSError:
            sock.close()
            raise
        return Peer(*await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or 2**16))

    async def exchange(self, data: bytes) -> bytes:
        """Everything that the server answers on a connection that sends ``data``, until the server closes."""
        async with await self.connect() as peer:
            await peer.send(data)
            return await peer.read_to_end()


@asynccontextmanager
async def serving(engine: EngineName, handler: Handler, **options: Any) -> AsyncIterator[Served]:
    """A server on an ephemeral port, ended at once when the block is left."""
    sock = bind_socket("127.0.0.1", 0)
    app = RecordingApp(handler)
    server = HttpServer(app, [sock], ServerOptions(engine=engine, **{**QUICK, **options}))
    address = sock.getsockname()
    await server.start()
    try:
        yield Served(server, app, address)
    finally:
        await server.abort()
        sock.close()


@dataclass
class Answer:
    """One parsed response; header names are lower-case, repeated ones joined by a comma."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)


class Peer:
    """The client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next response, its body read by the framing that its head announces."""
        async with asyncio.timeout(PATIENCE_S):
            answer = await self.head()
            if to_head or answer.status in (100, 204, 304):
                return answer
            if answer.headers.get("transfer-encoding") == "chunked":
                while chunk := await self.chunk():
                    answer.chunks.append(chunk)
                answer.body = b"".join(answer.chunks)
            elif "content-length" in answer.headers:
                answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
            else:
                answer.body = await self.reader.read()
            return answer

    async def head(self) -> Answer:
        """Status and headers of the next response."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(int(lines[0].split(" ")[1]), headers)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(PATIENCE_S):
            size = int((await self.reader.readline()).strip() or b"?", 16)
            data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def read_to_end(self) -> bytes:
        """All bytes until the server closes; a reset counts as an end."""
        received = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            try:
                while data := await self.reader.read(2**16):
                    received += data
            except ConnectionError:
                pass
        return bytes(received)

    def reset(self) -> None:
        """Leave with a RST, as a killed client does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()  # nobody may be reading any more
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, for what a server does without telling anybody."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the books of a server have no events
            await asyncio.sleep(0.001)


async def settled(measure: Callable[[], int], *, quiet_s: float = 0.05) -> int:
    """The value of ``measure`` once it has stopped changing."""
    before = -1
    while before != (value := measure()):
        before = value
        await asyncio.sleep(quiet_s)
    return value


async def read_body(receive: Receive) -> bytes:
    """The whole request body, as the node reads it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client left in the middle of its body")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def respond(
    send: Send, body: bytes = b"", *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """A whole response with the headers given and no others."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    body = await read_body(receive)
    line = f"{scope['method']} {scope['path']} ".encode() + body
    await respond(send, line, headers=((b"content-length", b"%d" % len(line)),))


def request(
    target: str = "/",
    *,
    method: str = "GET",
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """A request with a Host, and a Content-Length if there is a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: node", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
