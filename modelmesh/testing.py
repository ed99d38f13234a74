"""For tests of programs that use a client: one that answers what the test says, without providers, Redis or a mesh."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson

from modelmesh.extras import require_openai

require_openai()
import openai  # noqa: E402 -- the line above says better what is missing

_CREATED: Final = 1_700_000_000
_FAULT: Final = 500


@dataclass(frozen=True, slots=True)
class MockResponse:
    """One answer.

    Attributes:
        tokens: of the whole call; ``prompt_tokens`` is a third of it unless given, ``completion_tokens`` the rest.
        error: the message of an error answer instead, with ``status_code``, or 500 if that is 200.
        delay: seconds before it comes.
    """

    content: str = "Mock response"
    model: str = "mock-model"
    tokens: int = 10
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = "stop"
    error: str | None = None
    delay: float = 0.0
    status_code: int = 200

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _FAULT if self.error is not None and self.status_code == 200 else self.status_code

    @property
    def usage(self) -> dict[str, int]:
        """As an answer reports it."""
        sent = self.tokens // 3 if self.prompt_tokens is None else self.prompt_tokens
        got = self.tokens - sent if self.completion_tokens is None else self.completion_tokens
        return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}


class MockClient(openai.OpenAI):
    """An `openai.OpenAI`; ``calls`` has ``{"model", "messages", "kwargs", "response"}`` for every request."""

    calls: list[dict[str, Any]]


def mock_client(
    responses: Sequence[MockResponse | str] = (),
    failure_rate: float = 0.0,
    latency_range: tuple[float, float] | None = None,
    *,
    draw: Callable[[], float] = random.random,
    **options: Any,
) -> MockClient:
    """A client whose chat completions, streamed or not, are these in order; the last one repeats.

    Args:
        failure_rate: share of the calls that are answered with a 500.
        latency_range: seconds that each call takes beside its own delay.
        draw: chance, 0 to 1.
        options: those of `openai.OpenAI`; nothing is retried unless ``max_retries`` says so.
    """
    said = [answer if isinstance(answer, MockResponse) else MockResponse(answer) for answer in responses]
    script = _Script(said or [MockResponse()], failure_rate, latency_range, draw)
    http: Any = httpx.Client(transport=httpx.MockTransport(script), trust_env=False)
    client = MockClient(
        **{"api_key": "mock", "base_url": "http://mock/v1", "max_retries": 0, "http_client": http, **options}
    )
    client.calls = script.calls
    return client


class _Script:
    def __init__(
        self,
        responses: Sequence[MockResponse],
        failure_rate: float,
        latency_range: tuple[float, float] | None,
        draw: Callable[[], float],
    ) -> None:
        self.calls: list[dict[str, Any]] = []
        self._responses = responses
        self._failure_rate = failure_rate
        self._latency = latency_range or (0.0, 0.0)
        self._draw = draw

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/chat/completions"):
            return _refuse(404, f"the mock client has chat completions alone, not {request.url.path}")
        fields = orjson.loads(request.content)
        answer = self._responses[min(len(self.calls), len(self._responses) - 1)]
        known = {"model": fields.pop("model", None), "messages": fields.pop("messages", None)}
        self.calls.append({**known, "kwargs": fields, "response": answer})
        shortest, longest = self._latency
        time.sleep(answer.delay + shortest + (longest - shortest) * self._draw())
        if self._draw() < self._failure_rate:
            return _refuse(_FAULT, "a failure by chance")
        return _answer(answer, is_stream=bool(fields.get("stream")))


def _answer(answer: MockResponse, *, is_stream: bool) -> httpx.Response:
    if answer.status != 200:
        return _refuse(answer.status, answer.error or "")
    if is_stream:
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=b"".join(_events(answer))
        )
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.content},
        "finish_reason": answer.finish_reason,
    }
    return httpx.Response(
        200, json=_object(answer, "chat.completion") | {"choices": [choice], "usage": answer.usage}
    )


def _events(answer: MockResponse) -> Iterator[bytes]:
    """A chunk for each word, then the reason, then the usage."""
    shape = _object(answer, "chat.completion.chunk")
    for number, word in enumerate(answer.content.split(" ")):
        yield _event(shape | {"choices": [_delta({"content": f" {word}" if number else word}, None)]})
    yield _event(shape | {"choices": [_delta({}, answer.finish_reason)], "usage": answer.usage})
    yield b"data: [DONE]\n\n"


def _object(answer: MockResponse, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-mock", "object": kind, "created": _CREATED, "model": answer.model}


def _delta(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(fields)


def _refuse(status: int, message: str) -> httpx.Response:
    error = {"message": message, "type": "mock_error", "code": None, "param": None}
    return httpx.Response(status, json={"error": error})
