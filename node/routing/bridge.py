"""A call by another API than the provider's: the request is put into that one's words, and the caller's end translates what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

import orjson

from node.call import Call, Fields, Reply, Trail
from node.providers import claude, messages, responses
from node.routing.estimate import DEFAULT_OUTPUT_TOKENS
from shared_state.errors import ModelMeshError
from shared_state.topology import ModelSpec, ProviderSpec


class _Events(Protocol):
    """Makes one stream of another."""

    def feed(self, data: bytes) -> bytes:
        """Takes a piece of the one; what it comes to in the other."""

    def finish(self) -> bytes:
        """The end of the other, once."""


class _Bridge(NamedTuple):
    """From one API to its stand-in, and back.

    Attributes:
        ask: the request for a model.
        beyond: the first field that cannot be said; empty if there is none.
        answer: from the answer and what was asked.
        events: the same for a stream, from what was asked.
    """

    ask: Callable[[Fields, ModelSpec], Fields]
    beyond: Callable[[Fields], str]
    answer: Callable[[Fields, Fields], Fields]
    events: Callable[[Fields], _Events]


def _bound(model: ModelSpec) -> str:
    return "max_completion_tokens" if model.config.features.reasoning else "max_tokens"


def _responses_as_chat(fields: Fields, model: ModelSpec) -> Fields:
    return responses.chat_fields(fields, bound=_bound(model))


def _messages_as_chat(fields: Fields, model: ModelSpec) -> Fields:
    thinks = bool(model.config.features.reasoning)
    return messages.chat_fields(fields, bound=_bound(model), thinks=thinks)


def _chat_as_messages(fields: Fields, model: ModelSpec) -> Fields:
    most = model.config.constraints.max_output_tokens or DEFAULT_OUTPUT_TOKENS
    return claude.message_fields(fields, most_output=most)


_BRIDGES: Final[Mapping[str, _Bridge]] = {
    "responses": _Bridge(
        _responses_as_chat, responses.beyond_chat, responses.answer_of, responses.ResponseEvents
    ),
    "chat": _Bridge(_chat_as_messages, claude.beyond_messages, claude.answer_of, claude.ChatEvents),
    "messages": _Bridge(_messages_as_chat, messages.beyond_chat, messages.answer_of, messages.MessageEvents),
}


def bridged(call: Call, model: ModelSpec, provider: ProviderSpec, reply: Reply) -> tuple[Call, Reply]:
    """The call as the provider can take it, and the caller's end for it; both as they are where it knows the API."""
    surface = call.surface
    if surface.api == "messages" and surface.api in provider.apis:
        call = replace(call, fields=messages.own_fields(call.fields))
    while surface.api and surface.api not in provider.apis and surface.stand_in is not None:
        bridge, asked = _BRIDGES[surface.api], call.fields
        surface = surface.stand_in
        call = replace(call, surface=surface, fields=bridge.ask(asked, model), headers=())
        reply = _Translator(reply, asked, bridge)
    return call, reply


def beyond(call: Call) -> str:
    """The first field of a call that its stand-in has no words for; empty if it can all be said."""
    bridge = _BRIDGES.get(call.surface.api)
    return bridge.beyond(call.fields) if bridge is not None else ""


class _Translator:
    """Says to the caller in the words of one API what comes in those of another.

    Args:
        asked: the caller's request.
    """

    def __init__(self, reply: Reply, asked: Fields, bridge: _Bridge) -> None:
        self._reply = reply
        self._asked = asked
        self._answer = bridge.answer
        self._events = bridge.events(asked)

    @property
    def is_started(self) -> bool:
        return self._reply.is_started

    @is_started.setter
    def is_started(self, value: bool) -> None:
        raise AttributeError("only the caller's own end knows")

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        """Sends a complete answer."""
        answer = orjson.dumps(self._answer(orjson.loads(body), self._asked))
        await self._reply.whole(status, content_type, answer, trail)

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        """Sends the head of a stream."""
        await self._reply.begin(trail, content_type)

    async def part(self, data: bytes) -> None:
        """Sends what a piece comes to."""
        out = self._events.feed(data)
        if out:
            await self._reply.part(out)

    async def end(self) -> None:
        """Ends the stream."""
        out = self._events.finish()
        if out:
            await self._reply.part(out)
        await self._reply.end()

    async def break_off(self, error: ModelMeshError) -> None:
        """Ends a stream that has begun with an error event."""
        await self._reply.break_off(error)
