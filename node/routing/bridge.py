"""A call by another API than the caller's, for a provider that lacks that one: the caller's end translates what comes back."""

from __future__ import annotations

from dataclasses import replace

import orjson

from node.call import Call, Fields, Reply, Trail
from node.providers.responses import ResponseEvents, answer_of, chat_fields
from shared_state.errors import ModelMeshError
from shared_state.topology import ModelSpec, ProviderSpec


def bridged(call: Call, model: ModelSpec, provider: ProviderSpec, reply: Reply) -> tuple[Call, Reply]:
    """The call as the provider can take it, and the caller's end for it; both as they are where it knows the API."""
    other = call.surface.stand_in
    if other is None or provider.has_responses:
        return call, reply
    bound = "max_completion_tokens" if model.config.features.reasoning else "max_tokens"
    fields = chat_fields(call.fields, bound=bound)
    return replace(call, surface=other, fields=fields), _Translator(reply, call.fields)


class _Translator:
    """Says to the caller in events and answers of the Responses API what comes as a chat.

    Args:
        asked: the caller's request.
    """

    def __init__(self, reply: Reply, asked: Fields) -> None:
        self._reply = reply
        self._asked = asked
        self._events = ResponseEvents(asked)

    @property
    def is_started(self) -> bool:
        return self._reply.is_started

    @is_started.setter
    def is_started(self, value: bool) -> None:
        raise AttributeError("only the caller's own end knows")

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        """Sends a complete answer."""
        answer = orjson.dumps(answer_of(orjson.loads(body), self._asked))
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
