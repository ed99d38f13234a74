"""From the chunks of a chat stream to the events of a response."""

from __future__ import annotations

from typing import Any

import orjson

from node.call import Fields
from node.providers.responses.answering import (
    call_item,
    content_part,
    draft,
    finished,
    message_item,
    new_id,
    reasoning_item,
)
from node.providers.sse import EventSplitter, event_data, event_fields

_TEXT, _REFUSAL, _THOUGHT, _CALL = "output_text", "refusal", "reasoning_text", "function_call_arguments"


class _Item:
    """An item of the output while it grows.

    Attributes:
        kind: what its deltas are called.
    """

    def __init__(self, kind: str, place: int, *, call: Any = None, name: Any = None) -> None:
        prefix = {_THOUGHT: "rs", _CALL: "fc"}.get(kind, "msg")
        self.kind, self.place, self.call, self.name = kind, place, call, name
        self.id = new_id(prefix)
        self.texts: list[str] = []

    def shown(self, *, is_done: bool) -> Fields:
        """The item as it stands; before it is done without its content."""
        text, status = "".join(self.texts) if is_done else "", "completed" if is_done else "in_progress"
        if self.kind == _CALL:
            return call_item(self.id, self.call, self.name, text, status)
        if self.kind == _THOUGHT:
            return reasoning_item(self.id, text)
        return message_item(self.id, [content_part(self.kind, text)] if is_done else [], status)


class ResponseEvents:
    """Makes one stream of the other.

    Args:
        asked: the request, parts of which a response repeats.
    """

    def __init__(self, asked: Fields) -> None:
        self._asked = asked
        self._splitter = EventSplitter()
        self._number = 0
        self._response: Fields | None = None
        self._open: _Item | None = None
        self._calls: dict[Any, _Item] = {}
        self._items: list[_Item] = []
        self._finish: Any = None
        self._usage: Any = None
        self._is_done = False

    def feed(self, data: bytes) -> bytes:
        """Takes a piece of the chat stream; the events that it comes to.

        Raises:
            ProviderProtocolError: it cannot be understood.
        """
        out = []
        for event in self._splitter.feed(data):
            payload = event_data(event)
            if not payload:
                out.append(event)  # a comment keeps the connection awake in any dialect
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
        out = [*self._begin(None), *self._close()]
        for call in self._calls.values():
            out += self._end(call)
        assert self._response is not None
        response = finished(
            self._response, [item.shown(is_done=True) for item in self._items], self._finish, self._usage
        )
        out.append(self._event(f"response.{response['status']}", response=response))
        return b"".join(out)

    def _take(self, chunk: Fields) -> list[bytes]:
        out = self._begin(chunk.get("model"))
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            self._finish = choice.get("finish_reason") or self._finish
            if isinstance(delta, dict):
                out += self._grow(delta)
        return out

    def _begin(self, model: Any) -> list[bytes]:
        if self._response is not None:
            return []
        self._response = draft(self._asked, model=model)
        return [
            self._event(f"response.{name}", response=self._response) for name in ("created", "in_progress")
        ]

    def _grow(self, delta: Fields) -> list[bytes]:
        out: list[bytes] = []
        for name, kind in (("reasoning_content", _THOUGHT), ("content", _TEXT), ("refusal", _REFUSAL)):
            text = delta.get(name)
            if isinstance(text, str) and text:
                out += self._say(kind, text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                out += self._call(call)
        return out

    def _say(self, kind: str, text: str) -> list[bytes]:
        out: list[bytes] = []
        if self._open is None or self._open.kind != kind:
            out += self._close()
            self._open = self._add(_Item(kind, len(self._items)))
            out += self._added(self._open)
        item = self._open
        item.texts.append(text)
        more: Fields = {"logprobs": []} if kind == _TEXT else {}
        out.append(self._event(f"response.{kind}.delta", **self._where(item), delta=text, **more))
        return out

    def _call(self, call: Fields) -> list[bytes]:
        """Functions are called side by side: pieces tell by their index which of them they belong to."""
        out: list[bytes] = []
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        item = self._calls.get(call.get("index"))
        if item is None:
            out += self._close()
            item = self._add(_Item(_CALL, len(self._items), call=call.get("id"), name=function.get("name")))
            self._calls[call.get("index")] = item
            out += self._added(item)
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments:
            item.texts.append(arguments)
            out.append(self._event(f"response.{_CALL}.delta", **self._where(item), delta=arguments))
        return out

    def _add(self, item: _Item) -> _Item:
        self._items.append(item)
        return item

    def _added(self, item: _Item) -> list[bytes]:
        shown = item.shown(is_done=False)
        out = [self._event("response.output_item.added", output_index=item.place, item=shown)]
        if item.kind in (_TEXT, _REFUSAL):
            part = content_part(item.kind, "")
            out.append(self._event("response.content_part.added", **self._where(item), part=part))
        return out

    def _close(self) -> list[bytes]:
        item, self._open = self._open, None
        return self._end(item) if item is not None else []

    def _end(self, item: _Item) -> list[bytes]:
        text, where = "".join(item.texts), self._where(item)
        name = {_CALL: "arguments", _REFUSAL: "refusal"}.get(item.kind, "text")
        more: Fields = {"logprobs": []} if item.kind == _TEXT else {}
        if item.kind == _CALL:
            more = {"name": item.name}
        out = [self._event(f"response.{item.kind}.done", **where, **{name: text}, **more)]
        if item.kind in (_TEXT, _REFUSAL):
            part = content_part(item.kind, text)
            out.append(self._event("response.content_part.done", **where, part=part))
        shown = item.shown(is_done=True)
        out.append(self._event("response.output_item.done", output_index=item.place, item=shown))
        return out

    def _where(self, item: _Item) -> Fields:
        place: Fields = {"item_id": item.id, "output_index": item.place}
        return place if item.kind == _CALL else {**place, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
