"""Server-sent events as bytes: an incremental splitter, and a tap that understands OpenAI streams while they pass.

The tap hands bytes on as they came. It parses an event only until the first content, and afterwards only events that
carry usage, an error or the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from node.providers.classify import classify_event
from node.providers.usage import Usage, usage_from
from shared_state.errors import ProviderProtocolError

MAX_EVENT_BYTES: Final = 1 << 20

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_BOUNDARY_BYTES: Final = 4
_BYTES_PER_TOKEN: Final = 3
#: A longer part of an event is not looked at again and again while it grows.
_SHORT_REST_BYTES: Final = 8192
# Each begins with plain text, which is found many times faster than one expression with alternatives.
_NOTEWORTHY = (re.compile(rb'"usage"\s*:\s*\{'), re.compile(rb'"error"\s*:\s*[{"]'), re.compile(rb"\[DONE\]"))
_EVENT_START = re.compile(rb"(?:\A|\n\n)(?=[^:\n])")
_DATA_LINE = re.compile(rb"(?:^|\r\n|\n|\r)data:[ ]?([^\r\n]*)")


class EventSplitter:
    """Cuts a byte stream into whole events, whatever pieces it arrives in."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its blank line.

        Raises:
            ProviderProtocolError: an event is larger than 1 MiB.
        """
        # What was kept was searched before: only a boundary across the seam can be new.
        seen = max(0, len(self.rest) - _BOUNDARY_BYTES + 1)
        if self.rest:
            data = self.rest + data
        events, start = [], 0
        for match in _BOUNDARY.finditer(data, seen):
            events.append(data[start : match.end()])
            start = match.end()
        self.rest = data[start:] if start else data
        if len(self.rest) > MAX_EVENT_BYTES:
            raise ProviderProtocolError("an event of the stream is larger than 1 MiB")
        return events


def event_data(event: bytes) -> bytes:
    """The data of an event, its lines joined; empty for a comment."""
    lines: list[bytes] = _DATA_LINE.findall(event)
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def event_fields(data: bytes) -> dict[str, Any]:
    """The object in the data of an event.

    Raises:
        ProviderProtocolError: it is none.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProviderProtocolError("the provider sent an event that is not JSON") from error
    if not isinstance(fields, dict):
        raise ProviderProtocolError("the provider sent an event that is not an object")
    return fields


@dataclass(slots=True)
class StreamTap:
    """Follows an OpenAI event stream.

    Attributes:
        hide_usage: drop the usage event, which the caller did not ask for.
        has_content: something that cannot be taken back has come; until then another model may still answer.
        is_done: the end marker has come.
        pieces: events with data so far.
        text: bytes of text so far, and of all that is around it from the first content on.
        frame: bytes around the text of an event, by the first that had any; ``unframed`` events came before it.
        usage: what the provider reported.
    """

    provider: str
    hide_usage: bool
    has_content: bool = False
    is_done: bool = False
    pieces: int = 0
    text: int = 0
    frame: int = 0
    unframed: int = 0
    usage: Usage | None = None
    splitter: EventSplitter | None = None

    @property
    def tokens(self) -> int:
        """An estimate of the tokens that came, for a provider that reports none.

        Usually each event carries one, but some carry whole sentences: then it is a token for three bytes of text, which is more
        than prose has.
        """
        framed = self.pieces - self.unframed
        return max(self.pieces, (self.text - framed * self.frame) // _BYTES_PER_TOKEN)

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the provider; the bytes to pass on.

        Raises:
            ProviderError: the stream carries an error, or cannot be understood.
        """
        self.text += len(data)
        splitter = self.splitter
        if splitter is None:
            splitter = self.splitter = EventSplitter()
        return self._pass_on(splitter, data) if self.has_content else self._look_for_content(splitter, data)

    def _look_for_content(self, splitter: EventSplitter, data: bytes) -> bytes:
        """Understands each event until the first content; what follows it in the same piece is only passed on."""
        out = []
        events = splitter.feed(data)
        for place, event in enumerate(events, 1):
            self.text -= len(event)
            if self._passes(event):
                out.append(event)
            if self.has_content:
                later, splitter.rest = b"".join(events[place:]) + splitter.rest, b""
                out.append(self._pass_on(splitter, later))
                break
        return b"".join(out)

    def _pass_on(self, splitter: EventSplitter, data: bytes) -> bytes:
        """Whole events before the first noteworthy one go through untouched; a stream in CRLF has no such part."""
        quick = b""
        if splitter.rest and len(splitter.rest) <= _SHORT_REST_BYTES:
            # An event cut in two, as in any stream that comes faster than it is read: with its end it is like all others.
            data, splitter.rest = splitter.rest + data, b""
        if not splitter.rest:
            end = data.rfind(b"\n\n", 0, _first_noteworthy(data)) + 2
            if end > 1:
                quick, data = data[:end], data[end:]
                self.pieces += _count_events(quick)
        if not data:
            return quick
        return quick + b"".join([event for event in splitter.feed(data) if self._passes(event)])

    def finish(self) -> bytes:
        """Called at the end of the body: the last event may lack its blank line. The bytes to pass on.

        Raises:
            ProviderProtocolError: the stream ended without its end marker.
        """
        rest, out = (self.splitter.rest, b"") if self.splitter else (b"", b"")
        if rest.strip() and self._passes(rest):
            out = rest + b"\n\n"
        if not self.is_done:
            raise ProviderProtocolError(f"{self.provider} ended its stream without [DONE]")
        return out

    def _passes(self, event: bytes) -> bool:
        data = event_data(event)
        if not data:
            return True
        if data == b"[DONE]":
            self.is_done = True
            self.text -= len(event) if self.has_content else 0
            return True
        self.pieces += 1
        if self.has_content and _first_noteworthy(data) == len(data):
            return True
        return self._understand(data, len(event))

    def _understand(self, data: bytes, size: int) -> bool:
        try:
            chunk: Any = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ProviderProtocolError(f"{self.provider} sent an event that is not JSON") from error
        if not isinstance(chunk, dict):
            raise ProviderProtocolError(f"{self.provider} sent an event that is not an object")
        if chunk.get("error"):
            raise classify_event(chunk["error"], provider=self.provider)
        usage = usage_from(chunk.get("usage"))
        if usage is not None:
            self.usage = usage
        choices = chunk.get("choices")
        if usage is not None and not choices:
            self.pieces -= 1
            self.text -= size if self.has_content else 0
            if self.hide_usage:
                return False
        if not self.has_content and _has_content(choices):
            self.has_content = True
            self.text += _text_bytes(choices)
            self.frame, self.unframed = size - _text_bytes(choices), self.pieces
        return True


def _first_noteworthy(data: bytes) -> int:
    """Where usage, an error or the end marker begins; the end of the data if there is none."""
    end = len(data)
    for pattern in _NOTEWORTHY:
        if match := pattern.search(data, 0, end):
            end = match.start()
    return end


def _count_events(whole: bytes) -> int:
    """Events with data among whole events."""
    if whole[0] in b":\n" or b"\n\n:" in whole or b"\n\n\n" in whole:
        return len(_EVENT_START.findall(whole))
    return whole.count(b"\n\n")


def _text_bytes(value: Any) -> int:
    """Bytes of all text within a value."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_text_bytes, inner))


def _has_content(choices: Any) -> bool:
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        if choice.get("finish_reason") or choice.get("text"):
            return True
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
            return True
    return False
