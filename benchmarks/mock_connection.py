"""One client connection of the mock provider: HTTP/1.1 in, scripts out, in order, at their pace."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from benchmarks.mock_answers import Ending, Script
from benchmarks.mock_ledger import Entry, Ledger

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_FLUSH_S = 0.005


@dataclass(slots=True)
class Request:
    """One request, complete; header names are in lower case."""

    method: bytes
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    is_kept_alive: bool


Answerer = Callable[[Request], tuple[Script, Entry | None]]


class Connection(asyncio.Protocol):
    """Parses requests, plays the scripts that `answer` returns, and closes their ledger entries."""

    def __init__(self, answer: Answerer, ledger: Ledger) -> None:
        self._answer = answer
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._request: Request | None = None
        self._script: Script | None = None
        self._entry: Entry | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_held = False

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        if self._entry:
            self._entry.client_gone = True
            self._close_entry()
        self._script = self._request = None
        self._waiting.clear()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._is_held:
            self._is_held = False
            self._write_piece()

    # the parser's side

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        parser = self._parser
        request = Request(parser.get_method(), path, query, self._headers, body, parser.should_keep_alive())
        if self._request is None:
            self._serve(request)
        else:
            self._waiting.append(request)

    # the answer

    def _serve(self, request: Request) -> None:
        self._request = request
        self._script, self._entry = self._answer(request)
        if self._script.delay_s > 0:
            self._timer = self._loop.call_later(self._script.delay_s, self._write_first)
        else:
            self._write_first()

    def _write_first(self) -> None:
        script = self._script
        assert script is not None
        if script.gap_s <= 0 or not script.pieces:
            self._write(b"".join((script.first, *script.pieces)) if script.pieces else script.first)
            if self._entry:
                self._entry.chunks = script.chunks
            self._end()
            return
        self._write(script.first)
        self._position = 0
        self._due = self._loop.time()
        self._schedule()

    def _schedule(self) -> None:
        assert self._script is not None
        self._due += self._script.gap_s
        self._timer = self._loop.call_at(self._due, self._write_piece)

    def _write_piece(self) -> None:
        script = self._script
        if self._is_paused or script is None:
            self._is_held = True
            return
        self._write(script.pieces[self._position])
        self._position += 1
        if self._entry:
            self._entry.chunks = min(self._position, script.chunks)
        if self._position < len(script.pieces):
            self._schedule()
        else:
            self._end()

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
            if self._entry:
                self._entry.bytes_out += len(data)

    def _end(self) -> None:
        script, request = self._script, self._request
        assert script is not None and request is not None
        if script.ending is Ending.STALL:
            return
        if self._entry:
            self._entry.completed = script.is_whole
            self._close_entry()
        if script.ending is Ending.RESET:
            self._timer = self._loop.call_later(_FLUSH_S, self._reset)
        elif script.ending is Ending.CLOSE or not request.is_kept_alive:
            self._transport.close()
        else:
            self._next()

    def _next(self) -> None:
        self._request = self._script = None
        if self._waiting:
            self._serve(self._waiting.popleft())

    def _reset(self) -> None:
        """Close with RST; the pause before it let what was written leave."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._transport.abort()

    def _close_entry(self) -> None:
        assert self._entry is not None
        self._ledger.close(self._entry, t=time.time())
        self._entry = None
