"""From the events of a message to the chunks of a chat stream."""

from __future__ import annotations

from typing import Any, Final

import orjson

from node.call import Fields
from node.providers.claude.answering import draft, finish_of, usage_of
from node.providers.sse import EventSplitter, event_data, event_fields

_COMMENT: Final = b": ping\n\n"
#: Kinds of pieces that a chat has words for.
_SAID: Final = {"text_delta": ("content", "text"), "thinking_delta": ("reasoning_content", "thinking")}


class ChatEvents:
    """Makes one stream of the other.

    Args:
        asked: the request, which says whether the usage is wanted.
    """

    def __init__(self, asked: Fields) -> None:
        options = asked.get("stream_options")
        self._asked = asked
        self._tells_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._splitter = EventSplitter()
        self._frame = draft("chat.completion.chunk", {}, asked)
        self._calls: dict[Any, int] = {}
        self._silent: set[Any] = set()
        self._usage: Fields = {}
        self._is_done = False

    def feed(self, data: bytes) -> bytes:
        """Takes a piece of the message's stream; the chunks that it comes to.

        Raises:
            ProviderProtocolError: it cannot be understood.
        """
        out = []
        for event in self._splitter.feed(data):
            payload = event_data(event)
            out += self._take(event_fields(payload)) if payload else [event]
        return b"".join(out)

    def finish(self) -> bytes:
        """The end marker, once, behind the usage for who wants it."""
        if self._is_done:
            return b""
        self._is_done = True
        usage = usage_of(self._usage) if self._tells_usage else None
        told = [_event({**self._frame, "choices": [], "usage": usage})] if usage else []
        return b"".join([*told, b"data: [DONE]\n\n"])

    def _take(self, event: Fields) -> list[bytes]:
        kind, index = event.get("type"), event.get("index")
        if kind == "ping":
            return [_COMMENT]
        if kind == "message_start":
            return self._begin(event.get("message"))
        if kind == "content_block_start":
            return self._open(index, event.get("content_block"))
        if kind == "content_block_delta":
            return self._grow(index, event.get("delta"))
        if kind == "content_block_stop" and index in self._silent:
            return self._call(index, "{}")  # there are no arguments, which is an object too
        if kind == "message_delta":
            return self._end(event)
        return [self.finish()] if kind == "message_stop" else []

    def _begin(self, message: Any) -> list[bytes]:
        if isinstance(message, dict):
            self._frame = draft("chat.completion.chunk", message, self._asked)
            self._note(message.get("usage"))
        return [self._chunk({"role": "assistant", "content": ""})]

    def _open(self, index: Any, block: Any) -> list[bytes]:
        """Of what a block begins with only a call says anything; some servers give its arguments at once."""
        if not isinstance(block, dict) or block.get("type") != "tool_use":
            return []
        self._calls[index] = place = len(self._calls)
        self._silent.add(index)
        function = {"name": block.get("name"), "arguments": ""}
        call = {"index": place, "id": block.get("id"), "type": "function", "function": function}
        given = block.get("input")
        return [
            self._chunk({"tool_calls": [call]}),
            *(self._call(index, orjson.dumps(given).decode()) if given else []),
        ]

    def _grow(self, index: Any, delta: Any) -> list[bytes]:
        kind = delta.get("type") if isinstance(delta, dict) else None
        if kind == "input_json_delta" and index in self._calls:
            return self._call(index, delta.get("partial_json"))
        if not isinstance(kind, str) or kind not in _SAID:
            return []
        name, field = _SAID[kind]
        text = delta.get(field)
        return [self._chunk({name: text})] if isinstance(text, str) and text else []

    def _call(self, index: Any, arguments: Any) -> list[bytes]:
        if not isinstance(arguments, str) or not arguments:
            return []
        self._silent.discard(index)
        return [
            self._chunk({"tool_calls": [{"index": self._calls[index], "function": {"arguments": arguments}}]})
        ]

    def _end(self, event: Fields) -> list[bytes]:
        self._note(event.get("usage"))
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        return [self._chunk({}, finish_of(reason))] if reason else []

    def _note(self, usage: Any) -> None:
        """The later count is the better one."""
        if isinstance(usage, dict):
            self._usage.update({name: count for name, count in usage.items() if count is not None})

    def _chunk(self, delta: Fields, finish: str | None = None) -> bytes:
        return _event({**self._frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _event(fields: Fields) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(fields)
