"""An answer on its way out, recorded so that it can be given again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.types import Message, Send

from node.providers.sse import EventSplitter

_PERSONAL: Final = frozenset({b"content-length", b"x-request-id", b"request-id"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that can be given again: all of it but what belongs to one request alone."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether it was given as events."""
        kinds = [value for name, value in self.headers if name == b"content-type"]
        return bool(kinds) and kinds[0].startswith(b"text/event-stream")

    def events(self) -> list[bytes]:
        """The body of a stream, event by event; what has no end of its own comes last."""
        splitter = EventSplitter()
        events = splitter.feed(self.body)
        return [*events, splitter.rest] if splitter.rest else events

    def pack_head(self) -> bytes:
        """Status and headers as they are kept."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        return orjson.dumps([self.status, headers])


def unpack(head: bytes, body: bytes) -> Answer:
    """A kept answer."""
    status, headers = orjson.loads(head)
    return Answer(
        status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body
    )


class Recorder:
    """Stands between an answer and its caller.

    Args:
        send: the caller's end.
        limit_bytes: a longer body is not kept.
        on_end: awaited before the last piece goes out.
    """

    def __init__(self, send: Send, *, limit_bytes: int) -> None:
        self._send = send
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.is_complete = False
        self.on_end: Callable[[], Awaitable[Any]] | None = None

    async def __call__(self, message: Message) -> None:
        """The ``send`` of ASGI."""
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name not in _PERSONAL]
            self._head = message["status"], kept
        else:
            self._keep(message.get("body", b""))
            if not message.get("more_body", False):
                self.is_complete = True
                if self.on_end is not None:
                    await self.on_end()
        await self._send(message)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit_bytes:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    @property
    def status(self) -> int:
        """Of the answer; 0 before its head."""
        return self._head[0] if self._head is not None else 0

    @property
    def is_too_large(self) -> bool:
        """Whether the body is longer than what is kept."""
        return self._size > self._limit_bytes

    def answer(self) -> Answer:
        """What was said, once it is complete."""
        assert self._head is not None
        return Answer(*self._head, b"".join(self._parts))
