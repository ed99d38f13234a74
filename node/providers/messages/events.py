"""From the chunks of a chat stream to the events of a message.

Blocks of a message come one after the other, while functions in a chat may be called side by side: what belongs to a later block
waits until the one before it is whole.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from node.call import Fields
from node.providers.messages.answering import (
    draft,
    end_of,
    new_id,
    text_in,
    thought_in,
    usage_of,
    wants_thoughts,
)
from node.providers.sse import EventSplitter, event_data, event_fields

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
#: So many thoughts that nobody wants to see, and the caller hears that there is still somebody.
_SILENT_THOUGHTS: Final = 32

_TEXT, _THOUGHT, _CALL = "text", "thinking", "tool_use"
_DELTAS: Final = {
    _TEXT: ("text_delta", "text"),
    _THOUGHT: ("thinking_delta", "thinking"),
    _CALL: ("input_json_delta", "partial_json"),
}


class _Block:
    """A block of the message while it grows."""

    def __init__(self, kind: str, *, call: Any = None, name: Any = None) -> None:
        self.kind = kind
        self.held: list[str] = []
        self._call, self._name = call, name
        self._said: list[str] = []
        self._judged = 0
        self._is_whole = kind != _CALL

    @property
    def start(self) -> Fields:
        """The block with nothing in it."""
        if self.kind == _CALL:
            return {"type": _CALL, "id": self._call or new_id("toolu"), "name": self._name, "input": {}}
        empty = {"type": self.kind, self.kind: ""}
        return {**empty, "signature": ""} if self.kind == _THOUGHT else empty

    @property
    def is_whole(self) -> bool:
        """Whether what follows may begin: text can be cut anywhere, arguments only where they are complete.

        Those of a call that has none yet may still come.
        """
        if not self._is_whole and len(self._said) > self._judged:
            self._judged = len(self._said)
            self._is_whole = _is_object("".join(self._said))
        return self._is_whole

    def take(self) -> str:
        """What was held back; it is said now."""
        piece, self.held = "".join(self.held), []
        if self.kind == _CALL:
            self._said.append(piece)
        return piece


class MessageEvents:
    """Makes one stream of the other.

    Args:
        asked: the request, which says whether thoughts are wanted.
    """

    def __init__(self, asked: Fields) -> None:
        self._asked = asked
        self._shows_thoughts = wants_thoughts(asked)
        self._hidden = 0
        self._splitter = EventSplitter()
        self._blocks: list[_Block] = []
        self._calls: dict[Any, _Block] = {}
        self._place = 0
        self._is_open = False
        self._has_begun = self._is_done = self._refuses = False
        self._end: Fields = {}
        self._usage: Any = None

    def feed(self, data: bytes) -> bytes:
        """Takes a piece of the chat stream; the events that it comes to.

        Raises:
            ProviderProtocolError: it cannot be understood.
        """
        out = []
        for event in self._splitter.feed(data):
            payload = event_data(event)
            if not payload:
                out.append(PING)
            elif payload == b"[DONE]":
                out.append(self.finish())
            else:
                out += self._take(event_fields(payload))
        return b"".join(out)

    def finish(self) -> bytes:
        """The events of the end, once."""
        if self._is_done:
            return b""
        self._is_done = True
        out = self._begin({})
        while self._place < len(self._blocks):
            out += self._open() + self._close()
        end = end_of(self._end, self._asked, has_calls=bool(self._calls), refuses=self._refuses)
        out.append(_event("message_delta", delta=end, usage=usage_of(self._usage)))
        out.append(_event("message_stop"))
        return b"".join(out)

    def _take(self, chunk: Fields) -> list[bytes]:
        self._usage = chunk.get("usage") or self._usage
        out = self._begin(chunk)
        choices = chunk.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if choice.get("finish_reason"):
                self._end = choice
            delta = choice.get("delta")
            if isinstance(delta, dict):
                out += self._grow(delta)
        return out

    def _begin(self, chunk: Fields) -> list[bytes]:
        if self._has_begun:
            return []
        self._has_begun = True
        message = draft(self._asked, model=chunk.get("model"))
        return [_event("message_start", message={**message, "usage": usage_of(self._usage)})]

    def _grow(self, delta: Fields) -> list[bytes]:
        out = self._think(thought_in(delta))
        for name in ("content", "refusal"):
            text = text_in(delta, name)
            if text:
                self._refuses = self._refuses or name == "refusal"
                out += self._say(self._latest(_TEXT), text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                out += self._call(call)
        return out

    def _think(self, thought: str) -> list[bytes]:
        if not thought:
            return []
        if self._shows_thoughts:
            return self._say(self._latest(_THOUGHT), thought)
        self._hidden += 1
        return [PING] if self._hidden % _SILENT_THOUGHTS == 1 else []

    def _call(self, call: Fields) -> list[bytes]:
        """Pieces of a call tell by their index which it is."""
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        block = self._calls.get(call.get("index"))
        if block is None:
            block = self._add(_Block(_CALL, call=call.get("id"), name=function.get("name")))
            self._calls[call.get("index")] = block
        arguments = function.get("arguments")
        return self._say(block, arguments if isinstance(arguments, str) else "")

    def _latest(self, kind: str) -> _Block:
        """The last block if it is of that kind; else a new one."""
        if self._blocks and self._blocks[-1].kind == kind:
            return self._blocks[-1]
        return self._add(_Block(kind))

    def _add(self, block: _Block) -> _Block:
        self._blocks.append(block)
        return block

    def _say(self, block: _Block, text: str) -> list[bytes]:
        """Holds a piece back for its block, and sends what may go."""
        if text:
            block.held.append(text)
        out: list[bytes] = []
        while True:
            out += self._open()
            is_last = self._place == len(self._blocks) - 1
            if is_last or not self._blocks[self._place].is_whole:
                return out
            out += self._close()

    def _open(self) -> list[bytes]:
        """The block in turn with all that is there for it."""
        block, out = self._blocks[self._place], []
        if not self._is_open:
            self._is_open = True
            out.append(_event("content_block_start", index=self._place, content_block=block.start))
        if block.held:
            kind, name = _DELTAS[block.kind]
            delta = {"type": kind, name: block.take()}
            out.append(_event("content_block_delta", index=self._place, delta=delta))
        return out

    def _close(self) -> list[bytes]:
        place, self._place, self._is_open = self._place, self._place + 1, False
        return [_event("content_block_stop", index=place)]


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
