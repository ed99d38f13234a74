"""The caller's end of a request over ASGI."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from starlette.types import Send

from node.api.errors import error_answer, error_event
from node.api.record import Answer
from node.call import Trail, Voice
from shared_state.errors import ModelMeshError

_STREAM_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AsgiReply:
    """Sends answers, streams and errors with the headers of the contract.

    Args:
        is_typed: the events of a stream name their types.
        voice: in whose words errors are told.
    """

    __slots__ = ("_is_raw", "_is_typed", "_request_id", "_send", "_voice", "is_started", "status")

    def __init__(
        self, send: Send, request_id: str, *, is_typed: bool = False, voice: Voice = Voice.OPENAI
    ) -> None:
        self._send = send
        self._voice = voice
        self._request_id = request_id
        self._is_typed = is_typed
        self._is_raw = False
        self.is_started = False
        self.status = 0

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        """Sends a complete answer."""
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            *self._headers(trail),
        ]
        await self._whole(status, headers, body)

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        """Sends the head of an event stream, or of bytes of that type."""
        self._start(200)
        self._is_raw = bool(content_type)
        kind = [(b"content-type", content_type)] if content_type else _STREAM_HEADERS
        headers = [*kind, *self._headers(trail)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def part(self, data: bytes) -> None:
        """Sends a piece of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Ends the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, error: ModelMeshError) -> None:
        """Ends a stream that has begun with an error event.

        Bytes have no place for one: their answer stays unfinished, which the server makes known by cutting the connection.
        """
        if self._is_raw:
            return
        await self.part(error_event(error, self._request_id, is_typed=self._is_typed, voice=self._voice))
        await self.end()

    async def fail(self, error: ModelMeshError, trail: Trail) -> None:
        """Answers with an error, in the stream if that has begun."""
        if self.is_started:
            await self.break_off(error)
            return
        status, headers, body = error_answer(error, self._request_id, self._voice)
        headers.append((b"content-length", b"%d" % len(body)))
        await self._whole(status, headers + self._headers(trail), body)

    async def replay(self, answer: Answer) -> None:
        """Gives the answer of an earlier request with the same idempotency key, a stream event by event."""
        headers = [
            *answer.headers,
            *id_headers(self._request_id, self._voice),
            (b"x-modelmesh-idempotent-replay", b"true"),
        ]
        if answer.is_stream:
            await self._replay_events(answer, headers)
        else:
            length = (b"content-length", b"%d" % len(answer.body))
            await self._whole(answer.status, [*headers, length], answer.body)

    def _headers(self, trail: Trail) -> list[tuple[bytes, bytes]]:
        return trail_headers(trail, self._request_id, self._voice)

    async def _replay_events(self, answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
        self._start(answer.status)
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        for event in answer.events():
            await self.part(event)
            await asyncio.sleep(0)  # there may be thousands, and nothing here waits for a provider
        await self.end()

    async def _whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._start(status)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _start(self, status: int) -> None:
        self.is_started = True
        self.status = status


def id_headers(request_id: str, voice: Voice) -> list[tuple[bytes, bytes]]:
    """The id of a request, under the name that Anthropic's clients look for as well."""
    headers = [(b"x-request-id", request_id.encode())]
    if voice is Voice.ANTHROPIC:
        headers.append((b"request-id", request_id.encode()))
    return headers


def trail_headers(trail: Trail, request_id: str, voice: Voice = Voice.OPENAI) -> list[tuple[bytes, bytes]]:
    """The headers that say who served a request, after how many attempts, in which mode."""
    headers: list[tuple[bytes, bytes]] = [
        *id_headers(request_id, voice),
        (b"x-modelmesh-mode", trail.mode.encode()),
        (b"x-modelmesh-attempts", b"%d" % trail.attempts),
    ]
    if trail.fallback:
        headers.append((b"x-modelmesh-fallback", trail.fallback.encode()))
    if trail.is_panic:
        headers.append((b"x-modelmesh-panic", b"true"))
    target: Any = trail.target
    if target is not None:
        headers += _target_headers(target.pool.id, target.model.id, target.model.provider)
    return headers


@functools.lru_cache(maxsize=1024)
def _target_headers(pool: str, model: str, provider: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-modelmesh-pool", _ascii(pool)),
        (b"x-modelmesh-model", _ascii(model)),
        (b"x-modelmesh-provider", _ascii(provider)),
    )


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")
