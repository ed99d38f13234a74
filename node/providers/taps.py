"""Followers of answers that go out as they come: one for bytes, one for events that name their types, and the choice between all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Protocol

import httpx
import orjson

from node.call import Call, EventShape, Fields
from node.providers.classify import classify_event
from node.providers.sse import MAX_EVENT_BYTES, StreamTap, event_data
from node.providers.usage import Usage, usage_from
from shared_state.errors import ProviderProtocolError

#: A picture stands in one event.
_MOST_EVENT_BYTES: Final = 64 << 20

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_SEAM_BYTES: Final = 3
_TYPE = re.compile(rb"(?:\A|[\r\n])event:[ ]?([^\r\n]*)")
_HEAD_BYTES: Final = 200
_DRAIN_S: Final = 0.5


class Tap(Protocol):
    """What follows an answer; see `StreamTap`."""

    provider: str
    has_content: bool
    is_done: bool
    pieces: int
    usage: Usage | None

    @property
    def tokens(self) -> int:
        """An estimate of the tokens that came."""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the provider; the bytes to pass on."""

    def finish(self) -> bytes:
        """Called at the end of the body; the bytes to pass on."""


def open_tap(call: Call, provider: str) -> Tap:
    """The follower of an answer to a call."""
    if not call.is_stream:
        return BytesTap(provider)
    if call.surface.events is not None:
        return TypedTap(provider, call.surface.events, ends=call.surface.answers(call.fields))
    options = call.fields.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    return StreamTap(provider, hide_usage=not asked)


class BytesTap:
    """Sound and the like: every byte is content, and only the end of the body ends it."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.has_content = self.is_done = False
        self.pieces = self.tokens = 0
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the provider; the same."""
        self.pieces += 1
        self.has_content = self.has_content or bool(data)
        return data

    def finish(self) -> bytes:
        """The body is complete: the transport tells if it is not."""
        self.is_done = True
        return b""


class TypedTap:
    """Events that name their types. Each is understood up to the first content; afterwards those alone that fail or end.

    Args:
        ends: how many last events there will be, one for each answer.
    """

    def __init__(self, provider: str, shape: EventShape, *, ends: int = 1) -> None:
        self.provider = provider
        self.has_content = self.is_done = False
        self.pieces = 0
        self.usage: Usage | None = None
        self._shape = shape
        self._ends = ends
        self._has_ended = False
        self._told = shape.ends | shape.fails | shape.reports
        self._reported: Fields = {}
        self._events = _LargeEvents()

    @property
    def tokens(self) -> int:
        """An estimate of the tokens that came, for a provider that reports none."""
        return self.pieces

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the provider; the events to pass on.

        Raises:
            ProviderError: the stream carries an error, or cannot be understood.
        """
        events = self._events.feed(data)
        for event in events:
            if not self.is_done:
                self._look_at(event)
        return events[0] if len(events) == 1 else b"".join(events)

    def finish(self) -> bytes:
        """Called at the end of the body: the last event may lack its blank line.

        Raises:
            ProviderProtocolError: the stream ended without its last event.
        """
        rest = self._events.rest()
        if rest.strip():
            self._look_at(rest)
            rest += b"\n\n"
        if not self._has_ended:
            raise ProviderProtocolError(f"{self.provider} ended its stream without its last event")
        self.is_done = True
        return rest

    def _look_at(self, event: bytes) -> None:
        named = _TYPE.search(event, 0, _HEAD_BYTES)
        kind = named[1].decode("utf-8", "replace") if named else ""
        if kind in self._shape.idle:
            return
        if self.has_content and kind and kind not in self._told:
            self.pieces += 1
            return
        data = event_data(event)
        if data == b"[DONE]":
            self.is_done = self._has_ended = True
        elif data:
            self.pieces += 1
            self._understand(kind, data)

    def _understand(self, kind: str, data: bytes) -> None:
        try:
            fields: Any = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ProviderProtocolError(f"{self.provider} sent an event that is not JSON") from error
        if not isinstance(fields, dict):
            raise ProviderProtocolError(f"{self.provider} sent an event that is not an object")
        kind = kind or str(fields.get("type") or "")
        if kind in self._shape.fails or fields.get("error"):
            raise classify_event(_complaint(fields), provider=self.provider)
        if kind in self._shape.reports:
            self._reported.update(_reported(self._shape.usage_of(fields)))
        if kind in self._shape.ends:
            self._end(fields)
        self.has_content = self.has_content or kind not in self._shape.opening

    def _end(self, fields: Fields) -> None:
        usage = usage_from(self._reported or self._shape.usage_of(fields))
        if usage is not None and self.usage is not None:
            usage = Usage(self.usage.tokens_in + usage.tokens_in, self.usage.tokens_out + usage.tokens_out)
        self.usage = usage or self.usage
        self._has_ended = True
        self._ends -= 1
        self.is_done = self._ends <= 0


def _reported(usage: Any) -> Fields:
    """The counts of a usage that are told."""
    return (
        {name: count for name, count in usage.items() if count is not None} if isinstance(usage, dict) else {}
    )


def _complaint(fields: Fields) -> Any:
    """The error object of an event, which may itself be one, or hold an answer that has one."""
    answer = fields.get("response")
    within = answer.get("error") if isinstance(answer, dict) else None
    return fields.get("error") or within or fields


class _LargeEvents:
    """Cuts a byte stream into whole events; an event of many pieces is put together once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._edge = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its blank line.

        Raises:
            ProviderProtocolError: an event is too large.
        """
        self._parts.append(data)
        self._size += len(data)
        seam = self._edge + data
        self._edge = seam[-_SEAM_BYTES:]
        if _BOUNDARY.search(seam) is None:
            if self._size > _MOST_EVENT_BYTES:
                raise ProviderProtocolError(
                    f"an event of the stream is larger than {_MOST_EVENT_BYTES} bytes"
                )
            return []
        whole, start, events = self.rest(), 0, []
        for match in _BOUNDARY.finditer(whole):
            events.append(whole[start : match.end()])
            start = match.end()
        rest = whole[start:]
        self._parts, self._size, self._edge = [rest], len(rest), rest[-_SEAM_BYTES:]
        return events

    def rest(self) -> bytes:
        """What has come of an event that is not complete; it is forgotten."""
        whole = b"".join(self._parts)
        self._parts, self._size, self._edge = [], 0, b""
        return whole


async def until_content(parts: AsyncIterator[bytes], tap: Tap) -> bytes:
    """Everything up to and with the first content, held back so that another model could still answer."""
    held = b""
    async for part in parts:
        held += tap.feed(part)
        if tap.has_content:
            return held
        if tap.is_done:
            break
        if len(held) > MAX_EVENT_BYTES:
            raise ProviderProtocolError(f"{tap.provider} sent {len(held)} bytes without any content")
    else:
        tap.finish()
    raise ProviderProtocolError(f"{tap.provider} ended its stream without any content")


async def drain(parts: AsyncIterator[bytes]) -> None:
    """Reads what follows the end marker, normally nothing, so that the connection can be used again."""
    with suppress(TimeoutError, httpx.HTTPError, OSError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in parts:
                pass
