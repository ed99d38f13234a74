"""A proxy between two parts of the system that can be slow, cut, silent or gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK_BYTES = 16 * 1024
_QUEUE_CHUNKS = 256
_PERIOD_S = 0.01

Address = tuple[str, int] | str | Path


class TcpProxy:
    """Forwards TCP or unix connections to `target`; runs in the event loop of the test.

    The knobs may be turned at any time and hold for connections that exist as well:

    Attributes:
        delay_s: added one way, in each direction; throughput is not affected.
        bandwidth_bytes_s: per connection and direction; None is unlimited.
        cut_after_bytes: sever a connection once that many bytes went to the client; None is never.

    Args:
        target: ``(host, port)`` or the path of a unix socket.
        listen: the path of a unix socket to listen on; default a free loopback port.
    """

    def __init__(self, target: Address, *, listen: str | Path | None = None) -> None:
        self.delay_s = 0.0
        self.bandwidth_bytes_s: float | None = None
        self.cut_after_bytes: int | None = None
        self.connections_total = 0
        self.port = 0
        self._target = target
        self._path = listen
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> tuple[str, int] | str:
        """Where it listens."""
        return str(self._path) if self._path else ("127.0.0.1", self.port)

    @property
    def redis_url(self) -> str:
        """Its address as a Redis URL."""
        return f"unix://{self._path}?db=0" if self._path else f"redis://127.0.0.1:{self.port}/0"

    @property
    def http_url(self) -> str:
        """Its address as the base of HTTP URLs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    async def start(self) -> TcpProxy:
        """Listen."""
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._server = await asyncio.start_unix_server(self._accept, self._path)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    def pause(self) -> None:
        """Become a black hole: bytes go in and none come out until `resume`; new connections hang too."""
        self._flowing.clear()

    async def resume(self) -> None:
        """Forward again what was held back, and accept again after `refuse`."""
        self._flowing.set()
        if self._server is None:
            await self.start()

    def refuse(self) -> None:
        """Refuse new connections; those that exist stay, see `sever`."""
        if self._server:
            self._server.close()
            self._server = None

    def sever(self, *, reset: bool = True) -> None:
        """End all connections, with RST or with FIN."""
        for link in tuple(self._links):
            link.sever(reset=reset)

    async def close(self) -> None:
        """Refuse, sever, and wait for the end of every connection."""
        self.refuse()
        links = tuple(self._links)
        self.sever()
        await asyncio.gather(*(link.ended.wait() for link in links))
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def __aenter__(self) -> TcpProxy:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def flowing(self) -> None:
        """Wait while paused."""
        await self._flowing.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_total += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(self._target)
        finally:
            self._links.discard(link)
            link.ended.set()


class _Link:
    """One connection through the proxy: in each direction a task that reads ahead, and one that delivers when due.

    So a delay is no limit to throughput.
    """

    def __init__(self, proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._tasks: list[asyncio.Task[None]] = []
        self._to_client_bytes = 0
        self._is_severed = False

    async def run(self, target: Address) -> None:
        """Connect, and forward until both directions are over or the link is severed."""
        try:
            reader, writer = await _connect(target)
        except OSError:
            self.sever()
            return
        self._writers.append(writer)
        if self._is_severed:
            self.sever()
            return
        self._forward(self._reader, writer, is_to_client=False)
        self._forward(reader, self._writers[0], is_to_client=True)
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.sever(reset=False)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def sever(self, *, reset: bool = True) -> None:
        """End both sides at once."""
        self._is_severed = True
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if not reset:
                writer.close()
                continue
            if sock is not None and sock.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_to_client: bool
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_CHUNKS)
        self._tasks.append(asyncio.create_task(self._read(reader, queue)))
        self._tasks.append(asyncio.create_task(self._deliver(queue, writer, is_to_client=is_to_client)))

    async def _read(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            data = await reader.read(_CHUNK_BYTES)
            await queue.put((loop.time() + self._proxy.delay_s, data))

    async def _deliver(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, is_to_client: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._proxy.flowing()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            for part in self._rationed(data):
                if self._proxy.bandwidth_bytes_s:
                    await asyncio.sleep(len(part) / self._proxy.bandwidth_bytes_s)
                writer.write(self._cut(part) if is_to_client else part)
                await writer.drain()
                if is_to_client and self._is_spent():
                    self.sever(reset=False)
                    return

    def _rationed(self, data: bytes) -> Iterator[bytes]:
        """What the bandwidth lets through in one period, again and again."""
        bandwidth = self._proxy.bandwidth_bytes_s
        size = max(1, int(bandwidth * _PERIOD_S)) if bandwidth else len(data)
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def _cut(self, data: bytes) -> bytes:
        limit = self._proxy.cut_after_bytes
        kept = data if limit is None else data[: max(0, limit - self._to_client_bytes)]
        self._to_client_bytes += len(kept)
        return kept

    def _is_spent(self) -> bool:
        limit = self._proxy.cut_after_bytes
        return limit is not None and self._to_client_bytes >= limit


async def _connect(target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, tuple):
        return await asyncio.open_connection(*target)
    return await asyncio.open_unix_connection(target)
