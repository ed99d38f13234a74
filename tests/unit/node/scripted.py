"""A provider that follows a script: a transport for the connectors, with every request, answer and close noted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
import orjson

Part = Any  # bytes, an error to raise, or a callable to await


class Body(httpx.AsyncByteStream):
    """Yields its parts, raises the errors among them and awaits what is callable."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, BaseException):
                raise part
            if isinstance(part, bytes):
                yield part
            else:
                await part()

    async def aclose(self) -> None:
        self.closed += 1


class Answer:
    """One answer of a script.

    Args:
        wait: awaited before the head is given.
    """

    def __init__(
        self,
        *parts: Part,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        wait: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.status = status
        self.headers = dict(headers or {"content-type": "application/json"})
        self.body = Body(parts)
        self.wait = wait

    def again(self) -> Answer:
        """The same answer, unread."""
        return Answer(*self.body.parts, status=self.status, headers=self.headers, wait=self.wait)


Step = Answer | BaseException


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Answers the requests to each host in the order of its script; the last step goes on for ever.

    Attributes:
        connects: awaited one by one, each before a request has its connection.
    """

    def __init__(self, **scripts: Step | Sequence[Step]) -> None:
        self._scripts = {
            host: list(script) if isinstance(script, Sequence) else [script]
            for host, script in scripts.items()
        }
        self.connects: list[Callable[[], Awaitable[object]]] = []
        self.requests: list[httpx.Request] = []
        self.answers: list[Answer] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.connects:
            await self.connects.pop(0)()
        if (on_send := request.extensions.get("on_send")) is not None:
            on_send()
        self.requests.append(request)
        script = self._scripts[request.url.host]
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, BaseException):
            raise step
        if step.wait is not None:
            await step.wait()
        answer = step.again()
        self.answers.append(answer)
        return httpx.Response(answer.status, headers=answer.headers, stream=answer.body)

    @property
    def hosts(self) -> list[str]:
        """Who was asked, in order."""
        return [request.url.host for request in self.requests]


def for_ever() -> Awaitable[object]:
    """A wait that only cancellation ends; time passes meanwhile."""
    return asyncio.sleep(1e6)


def pause(seconds: float) -> Callable[[], Awaitable[object]]:
    """A part that takes its time."""
    return lambda: asyncio.sleep(seconds)


def whole(text: str = "hello", *, usage: tuple[int, int] | None = (7, 3)) -> Answer:
    """A complete chat answer."""
    fields: dict[str, object] = {
        "id": "c1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    if usage is not None:
        fields["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Answer(orjson.dumps(fields))


def refused(
    status: int, *, code: str | None = None, kind: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """An error answer in the OpenAI shape."""
    body = orjson.dumps({"error": {"message": f"scripted {status}", "type": kind, "code": code}})
    return Answer(body, status=status, headers={"content-type": "application/json", **(headers or {})})


def stream(*parts: Part, wait: Callable[[], Awaitable[object]] | None = None) -> Answer:
    """An event stream of exactly these parts."""
    return Answer(*parts, headers={"content-type": "text/event-stream"}, wait=wait)


def event(fields: object) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def chunk(text: str) -> bytes:
    """An event with content."""
    return event({"id": "c1", "choices": [{"index": 0, "delta": {"content": text}}]})


ROLE = event({"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
USAGE = event({"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
FINISH = event({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = b"data: [DONE]\n\n"
FAILED = event({"error": {"message": "overloaded", "type": "overloaded_error"}})
COMMENT = b": PROCESSING\n\n"
HTML_PAGE = b"<html><head><title>502 Bad Gateway</title></head></html>"
