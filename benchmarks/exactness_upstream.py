"""A counting upstream: it obeys ``max_tokens``, and books when each call arrived, when it ended and what it used."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import orjson

_BYTES_PER_TOKEN = 4
_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x "},"finish_reason":null}]}\n\n'
_ENCODED = "content-type: %s\r\ncontent-length: %d\r\n\r\n"


@dataclass(slots=True)
class Arrival:
    """One call: its Unix times, and the tokens that its answer reports.

    Attributes:
        end_s: when the answer was over or the caller had left; None while it runs.
    """

    model: str
    at_s: float
    tokens_in: int
    tokens_out: int
    end_s: float | None = None


class CountingUpstream:
    """An OpenAI-compatible server on an ephemeral loopback port, in this event loop.

    Args:
        pause_s: how long each answer takes.
    """

    def __init__(self, *, pause_s: float = 0.02) -> None:
        self.arrivals: list[Arrival] = []
        self._pause_s = pause_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        """With its version prefix, as providers are configured."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> CountingUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._connections:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                body = await _read_body(reader)
                await self._answer(writer, orjson.loads(body), len(body))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the caller has left
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, call: dict[str, Any], size_bytes: int) -> None:
        tokens_out = call.get("max_tokens") or call.get("max_completion_tokens") or 1
        arrival = Arrival(call["model"], time.time(), size_bytes // _BYTES_PER_TOKEN, tokens_out)
        self.arrivals.append(arrival)
        try:
            await asyncio.sleep(self._pause_s)
            writer.write(_answer_to(call, arrival))
            await writer.drain()
        finally:
            arrival.end_s = time.time()


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


def _answer_to(call: dict[str, Any], arrival: Arrival) -> bytes:
    used = {"prompt_tokens": arrival.tokens_in, "completion_tokens": arrival.tokens_out}
    usage = used | {"total_tokens": arrival.tokens_in + arrival.tokens_out}
    common = {"id": "c", "created": int(arrival.at_s), "model": call["model"]}
    if call.get("stream"):
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        last = common | {"object": "chat.completion.chunk", "choices": [end]}
        tail = last | {"choices": [], "usage": usage}
        body = _CHUNK + b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in (last, tail))
        return _message("text/event-stream", body + b"data: [DONE]\n\n")
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    answer = common | {"object": "chat.completion", "choices": [choice], "usage": usage}
    return _message("application/json", orjson.dumps(answer))


def _message(content_type: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + (_ENCODED % (content_type, len(body))).encode() + body
