"""A counting upstream in a process of its own: it books when each call arrived, when it ended and what it used.

It speaks the OpenAI API and misbehaves when the prompt tells it to, so that whoever asks decides what happens, whatever
stands in between. ``GET /ledger`` tells what it has booked.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from benchmarks.exactness_oracle import Arrival

#: What a prompt may order, as ``[[do:reset]]``: an error, a connection cut before or amid the answer, silence, a long answer.
ORDERS: Final = ("429", "500", "reset", "cut", "stall", "slow")
_ORDER: Final = re.compile(r"\[\[do:(\w+)\]\]")
_CHARACTERS_PER_TOKEN = 4
_PAUSE_S, _SLOW_S, _STALL_S = (0.005, 0.04), (0.5, 1.5), 3.0
_TICK_S = 0.02
_PIECE = {"index": 0, "delta": {"content": "x "}, "finish_reason": None}
_END = {"index": 0, "delta": {}, "finish_reason": "stop"}
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class _Booking:
    model: str
    at_s: float
    tokens_in: int
    tokens_out: int
    end_s: float | None = None
    status: int = 0


class Clock:
    """Unix time, the same for all that one turn of the event loop found: what ended and what began then cannot be told apart.

    Attributes:
        lag_s: the most that a turn came late, and so the most that a stamp is off.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._zero_s = time.time() - self._loop.time()
        self._now_s: float | None = None
        self.lag_s = 0.0
        self._tick(self._loop.time())

    def stamp(self) -> float:
        """The time of this turn."""
        if self._now_s is None:
            self._now_s = self._zero_s + self._loop.time()
            self._loop.call_soon(self._forget)
        return self._now_s

    def _forget(self) -> None:
        self._now_s = None

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        self.lag_s = max(self.lag_s, now - due)
        self._loop.call_at(now + _TICK_S, self._tick, now + _TICK_S)


class Books:
    """What arrived, and the chance by which answers differ."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.rng = random.Random(seed)
        self.bookings: list[_Booking] = []

    def open(self, call: dict[str, Any], prompt: str) -> _Booking:
        """Books an arrival."""
        most = call.get("max_tokens") or call.get("max_completion_tokens") or 1
        used = max(1, round(most * self.rng.random()))
        booking = _Booking(call["model"], self.clock.stamp(), len(prompt) // _CHARACTERS_PER_TOKEN, used)
        self.bookings.append(booking)
        return booking

    def close(self, booking: _Booking) -> None:
        """Books an end; only the first one counts."""
        if booking.end_s is None:
            booking.end_s = self.clock.stamp()

    def document(self) -> bytes:
        """As ``GET /ledger`` tells it."""
        rows = [(b.model, b.at_s, b.tokens_in, b.tokens_out, b.end_s, b.status) for b in self.bookings]
        return orjson.dumps({"lag_s": self.clock.lag_s, "arrivals": rows})


class Caller(asyncio.Protocol):
    """One connection; one call at a time."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = b""
        self._running: _Booking | None = None
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._next:
            self._next.cancel()
        if self._running:
            self._books.close(self._running)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else 0
        if len(rest) >= size:
            self._buffer = rest[size:]
            self._serve(head.split(b" ", 2)[1], rest[:size])

    def _serve(self, path: bytes, body: bytes) -> None:
        if path == b"/ledger":
            self._transport.write(_message(200, "application/json", self._books.document()))
        elif not body:
            self._transport.write(_message(404, "application/json", b"{}"))
        else:
            call = orjson.loads(body)
            prompt = "".join(str(message.get("content")) for message in call.get("messages", ()))
            booking = self._running = self._books.open(call, prompt)
            order = _ORDER.search(prompt)
            self._obey(order[1] if order else "", call, booking)

    def _obey(self, order: str, call: dict[str, Any], booking: _Booking) -> None:
        pause_s = self._books.rng.uniform(*(_SLOW_S if order == "slow" else _PAUSE_S))
        if order in ("429", "500"):
            booking.status, booking.tokens_in, booking.tokens_out = int(order), 0, 0
            self._later(pause_s, lambda: self._end(booking, _refusal(booking.status)))
        elif order in ("reset", "stall"):
            self._later(_STALL_S if order == "stall" else pause_s, self._reset)
        elif call.get("stream"):
            self._later(pause_s, lambda: self._begin_stream(call, booking, is_cut=order == "cut"))
        else:
            booking.status = 0 if order == "cut" else 200
            whole = _message(200, "application/json", _answer(call, booking))
            self._later(pause_s, lambda: self._cut(whole) if order == "cut" else self._end(booking, whole))

    def _begin_stream(self, call: dict[str, Any], booking: _Booking, *, is_cut: bool) -> None:
        pieces = [_event(call, choices=[_PIECE])] * min(booking.tokens_out, 5)
        tail = _event(call, choices=[_END]) + _event(call, choices=[], usage=_usage(booking))
        self._transport.write(_head(200, "text/event-stream", None) + _chunk(pieces[0]))
        rest = _chunk(b"".join(pieces[1:]) + tail + b"data: [DONE]\n\n") + b"0\r\n\r\n"
        pause_s = self._books.rng.uniform(*_PAUSE_S)
        if is_cut:
            self._later(pause_s, self._reset)
        else:
            booking.status = 200
            self._later(pause_s, lambda: self._end(booking, rest))

    def _later(self, pause_s: float, act: Callable[[], object]) -> None:
        self._next = self._loop.call_later(pause_s, act)

    def _end(self, booking: _Booking, message: bytes) -> None:
        """Booked before it is written: whoever reads it may call again at once."""
        self._books.close(booking)
        self._running = None
        self._transport.write(message)

    def _cut(self, whole: bytes) -> None:
        self._transport.write(whole[: len(whole) // 2])
        self._later(0.001, self._reset)

    def _reset(self) -> None:
        if self._running:
            self._books.close(self._running)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


def _head(status: int, content_type: str, length: int | None) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    pause = "retry-after: 1\r\n" if status == 429 else ""
    return f"HTTP/1.1 {status} x\r\ncontent-type: {content_type}\r\n{pause}{framing}\r\n\r\n".encode()


def _message(status: int, content_type: str, body: bytes) -> bytes:
    return _head(status, content_type, len(body)) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _refusal(status: int) -> bytes:
    kind = "rate_limit_error" if status == 429 else "server_error"
    error = {"message": "as ordered", "type": kind, "code": None, "param": None}
    return _message(status, "application/json", orjson.dumps({"error": error}))


def _usage(booking: _Booking) -> dict[str, int]:
    used = {"prompt_tokens": booking.tokens_in, "completion_tokens": booking.tokens_out}
    return used | {"total_tokens": booking.tokens_in + booking.tokens_out}


def _event(call: dict[str, Any], **fields: Any) -> bytes:
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": call["model"]}
    return b"data: %b\n\n" % orjson.dumps(event | fields)


def _answer(call: dict[str, Any], booking: _Booking) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": call["model"]}
    return orjson.dumps(answer | {"choices": [choice], "usage": _usage(booking)})


class CountingUpstream:
    """The upstream's process, as its owner sees it; a context manager.

    Args:
        port: 0 for any.
        seed: of the chance by which its answers differ.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, seed: int = 1) -> None:
        self._arguments = ("--host", host, "--port", str(port), "--seed", str(seed))
        self._host, self._port = host, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """With its version prefix, as providers are configured."""
        return f"http://{self._host}:{self._port}/v1"

    def __enter__(self) -> CountingUpstream:
        command = [sys.executable, "-m", __name__, *self._arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise OSError(f"the counting upstream cannot listen on {self._host}:{self._port}")
        self._port = int(line)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate()

    async def ledger(self) -> tuple[list[Arrival], float]:
        """Everything that arrived so far, and the most that a time in it may be off, in seconds."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        try:
            writer.write(b"GET /ledger HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            said = orjson.loads(await reader.readexactly(int(head.rsplit(b":", 1)[1])))
        finally:
            writer.close()
        return [Arrival(*row) for row in said["arrivals"]], said["lag_s"]


async def _serve(host: str, port: int, seed: int) -> None:
    """Serves until standard input ends, so that nobody outlives its owner."""
    loop = asyncio.get_running_loop()
    books = Books(Clock(), seed)
    server = await loop.create_server(lambda: Caller(books), host, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    owner = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(owner), sys.stdin)
    await owner.read()
    server.close()


def main() -> None:
    """Run it alone; the first line of its output is the port."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness_upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(_serve(options.host, options.port, options.seed))


if __name__ == "__main__":
    main()
