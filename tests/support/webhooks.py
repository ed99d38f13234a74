"""A receiver of webhooks, or of traces: answers what the test says, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from contextlib import suppress
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class HookCall:
    """One call."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """An HTTP server on a free loopback port.

    Attributes:
        statuses: of the next answers; 200 when there are none left.
        calls: so far.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.calls: list[HookCall] = []
        self.called = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def sign(body: bytes, secret: bytes) -> str:
        """As the receiver of a signed call does it."""
        return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.calls.append(HookCall(method, path, headers, body))
        self.called.set()
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % status)
        await writer.drain()
