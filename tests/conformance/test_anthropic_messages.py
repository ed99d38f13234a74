"""The Messages API by the official client: from providers that have it, and from those that only chat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import orjson
import pytest
from anthropic import AsyncAnthropic

from shared_state.client_keys import ClientKey
from shared_state.ledger import Outcome
from shared_state.state import EntityState
from tests.conformance.openai_node import POOL, Served, answer, served
from tests.unit.node.scripted import (
    COMMENT,
    DONE,
    FAILED,
    ROLE,
    USAGE,
    Answer,
    chunk,
    event,
    refused,
    stream,
    whole,
)

NATIVE: dict[str, Any] = {"provider": {"messages": True}}
HI: Any = [{"role": "user", "content": "hi"}]
ASK: dict[str, Any] = {"model": POOL, "max_tokens": 9, "messages": HI}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 3},
}
WEATHER: Any = {
    "name": "weather",
    "description": "of a town",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}},
}
TIRED = {"type": "error", "error": {"type": "overloaded_error", "message": "tired"}}


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + event({"type": kind, **fields})


START = typed(
    "message_start", message={**MESSAGE, "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}}
)
OPEN = typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"})
REST = (
    typed("content_block_stop", index=0),
    typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    typed("message_stop"),
)
PING = typed("ping")


@asynccontextmanager
async def claude(*scripts: Any, **options: Any) -> AsyncIterator[tuple[AsyncAnthropic, Served]]:
    """A node, and Anthropic's client in front of it."""
    async with served("fast", "chat-completion", *scripts, **options) as node:
        address = str(node.client.base_url).removesuffix("/v1/")
        async with AsyncAnthropic(base_url=address, api_key="unused", max_retries=0, timeout=10.0) as client:
            yield client, node


# -- providers that only chat


async def test_a_chat_stands_in_for_a_message() -> None:
    """Its text, its end, its usage, and the headers that both sides look for."""
    async with claude(whole("hello")) as (client, node):
        raw = await client.messages.with_raw_response.create(
            **ASK,
            system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
            stop_sequences=["END"],
            metadata={"user_id": "u"},
            extra_headers={"x-request-id": "req-7"},
        )
        given = await raw.parse()

    assert (given.content[0].type, given.content[0].text) == ("text", "hello")  # type: ignore[union-attr]
    assert (given.stop_reason, given.role, given.usage.input_tokens, given.usage.output_tokens) == (
        "end_turn",
        "assistant",
        7,
        3,
    )
    assert given._request_id == raw.headers["x-request-id"] == "req-7"
    assert raw.headers["x-modelmesh-model"] == "alpha.m"
    assert node.asked == ["alpha/v1/chat/completions"]
    assert node.sent == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, *HI],
            "max_tokens": 9,
            "stop": ["END"],
            "user": "u",
        }
    ]
    assert "anthropic-version" not in node.front.place.transport.requests[0].headers
    assert node.booked == [(7, 3)]
    assert [ask.tokens_out for ask in node.front.place.ledger.asks] == [9]


async def test_a_chat_stream_becomes_a_message() -> None:
    """By the client's own helper, which insists on the order of events."""
    parts = COMMENT, ROLE, chunk("hel"), chunk("lo")[:9], chunk("lo")[9:], USAGE, DONE
    async with claude(stream(*parts)) as (client, node), client.messages.stream(**ASK) as given:
        texts = [text async for text in given.text_stream]
        final = await given.get_final_message()

    assert texts == ["hel", "lo"]
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 7, 3)
    assert node.sent[0]["stream_options"] == {"include_usage": True}
    assert node.booked == [(7, 3)]


async def test_tools_are_used_in_a_stream_and_answered() -> None:
    """There and back: two calls side by side, and their results in the next request."""

    def calls(*pieces: dict[str, Any]) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": list(pieces)}}]})

    parts = (
        chunk("let me see"),
        calls({"index": 0, "id": "c0", "function": {"name": "weather", "arguments": ""}}),
        calls({"index": 0, "function": {"arguments": '{"town":'}}),
        calls({"index": 1, "id": "c1", "function": {"name": "weather", "arguments": "{}"}}),
        calls({"index": 0, "function": {"arguments": '"Ulm"}'}}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        DONE,
    )
    async with claude([stream(*parts), whole("rain")]) as (client, node):
        async with client.messages.stream(**ASK, tools=[WEATHER], tool_choice={"type": "any"}) as given:
            first = await given.get_final_message()
        used: Any = [block for block in first.content if block.type == "tool_use"]
        results: Any = [{"type": "tool_result", "tool_use_id": b.id, "content": "wet"} for b in used]
        turns: Any = [
            *HI,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ]
        second = await client.messages.create(**{**ASK, "messages": turns}, tools=[WEATHER])

    assert first.stop_reason == "tool_use"
    assert [(b.id, b.name, b.input) for b in used] == [
        ("c0", "weather", {"town": "Ulm"}),
        ("c1", "weather", {}),
    ]
    assert second.content[0].text == "rain"  # type: ignore[union-attr]
    assert node.sent[0]["tool_choice"] == "required"
    assert [m["role"] for m in node.sent[1]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [c["id"] for c in node.sent[1]["messages"][1]["tool_calls"]] == ["c0", "c1"]


async def test_the_first_failure_is_not_heard() -> None:
    """Before the first content another model answers; nothing of the first one's opening gets through."""
    async with (
        claude(stream(ROLE, FAILED), stream(ROLE, chunk("hello"), DONE)) as (client, node),
        client.messages.stream(**ASK) as given,
    ):
        text = await given.get_final_text()

    assert text == "hello"
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


@pytest.mark.parametrize("native", [True, False])
async def test_a_later_failure_ends_the_stream_with_an_error(native: bool) -> None:
    """In Anthropic's words, which the client raises."""
    broken = (
        stream(START, OPEN, DELTA, typed("error", **TIRED))
        if native
        else stream(ROLE, chunk("hello"), FAILED)
    )
    heard: list[str] = []
    async with claude(broken, **(NATIVE if native else {})) as (client, _):
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(**ASK) as given:
                async for text in given.text_stream:
                    heard.append(text)  # noqa: PERF401

    assert heard == ["hello"]
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "overloaded_error")
    assert body["request_id"] == caught.value.response.headers["request-id"]


@pytest.mark.parametrize(
    ("first", "given", "expected", "kind"),
    [
        (whole(), {"model": "nobody"}, anthropic.NotFoundError, "not_found_error"),
        (whole(), {"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        (
            whole(),
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        (
            whole(),
            {"messages": [{"role": "user", "content": "x" * (9 << 20)}]},
            anthropic.ContentTooLargeError,
            "request_too_large",
        ),
        (
            refused(400, code="bad", kind="invalid_request_error"),
            {},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        (refused(500), {}, anthropic.InternalServerError, "api_error"),
    ],
)
async def test_errors_are_told_in_anthropics_words(
    first: Answer, given: Any, expected: type[anthropic.APIStatusError], kind: str
) -> None:
    """With the status that they have everywhere, the id under both names, and what the provider itself has said."""
    async with claude(first, first.again()) as (client, _):
        with pytest.raises(expected) as caught:
            await client.messages.create(**{**ASK, **given})

    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == caught.value.request_id == caught.value.response.headers["x-request-id"]
    if first.status == 400:
        assert body["error"]["message"] == "scripted 400"


async def test_a_refusal_says_when_to_come_back() -> None:
    """And which limit it was is not Anthropic's to say."""
    full = refused(429, kind="rate_limit_error", headers={"retry-after": "30"})
    async with claude(full, full.again()) as (client, _):
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(**ASK)

    body: Any = caught.value.body
    assert body["error"]["type"] == "rate_limit_error"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 31


# -- providers that have it


async def test_a_message_is_passed_on() -> None:
    """As it came, whatever the request uses of the API, with the headers that belong to it."""
    more: dict[str, Any] = {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "extra_body": {"context_management": {"edits": []}, "unheard": 1},
        "extra_headers": {"anthropic-beta": "context-management-2025-06-27"},
    }
    async with claude(answer(MESSAGE), **NATIVE) as (client, node):
        given = await client.messages.create(**ASK, **more)
        await client.beta.messages.create(**ASK, betas=["one", "two"])

    request, beta = node.front.place.transport.requests
    assert given.content[0].text == "hello"  # type: ignore[union-attr]
    assert node.asked == ["alpha/v1/messages"] * 2
    assert node.sent[:1] == [
        {
            "model": "m",
            "max_tokens": 9,
            "messages": HI,
            "thinking": more["thinking"],
            "tools": more["tools"],
            "context_management": {"edits": []},
            "unheard": 1,
        }
    ]
    assert request.headers["anthropic-beta"] == "context-management-2025-06-27"
    assert request.headers["anthropic-version"] == client.default_headers["anthropic-version"]
    assert beta.headers["anthropic-beta"] == "one,two"
    assert node.booked == [(7, 3)] * 2  # what came out of a cache is input too


async def test_a_message_is_streamed() -> None:
    """Event by event; the usage is put together from the first and the last of them."""
    parts = START, PING, OPEN, DELTA, *REST
    async with claude(stream(*parts), **NATIVE) as (client, node):
        raw = await client.messages.with_raw_response.create(**ASK, stream=True)
        body = await raw.http_response.aread()

    assert body == b"".join(parts)
    assert node.booked == [(5, 3)]


@pytest.mark.parametrize("failure", [typed("error", **TIRED), b""])
async def test_a_message_that_fails_before_its_content_is_another_models(failure: bytes) -> None:
    """What opens a stream is no content: nothing of it is heard."""
    good = stream(START, OPEN, DELTA, *REST)
    async with (
        claude(stream(START, PING, OPEN, failure), good, **NATIVE) as (client, node),
        client.messages.stream(**ASK) as given,
    ):
        text = await given.get_final_text()

    assert text == "hello"
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


# -- Claude itself, which has no other API

CLAUDE: dict[str, Any] = {"provider": {"connector": "anthropic.claude.v1", "base_url": "http://alpha/v1"}}
HEARD = {"tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]}


async def test_a_message_stands_in_for_a_chat() -> None:
    """OpenAI's client is served by Claude; the bound that there must be is the model's, and the key goes where it belongs."""
    async with claude(answer(MESSAGE), **CLAUDE, model={"constraints": {"max_output_tokens": 77}}) as (
        _,
        node,
    ):
        given = await node.client.chat.completions.create(model=POOL, messages=HI, **HEARD)  # type: ignore[call-overload]

    request = node.front.place.transport.requests[0]
    assert (given.choices[0].message.content, given.choices[0].finish_reason) == ("hello", "stop")
    assert (given.usage.prompt_tokens, given.usage.completion_tokens) == (7, 3)
    assert node.asked == ["alpha/v1/messages"]
    assert node.sent[0]["max_tokens"] == 77
    assert node.sent[0]["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("sk-secret", "2023-06-01")
    assert "authorization" not in request.headers
    assert node.booked == [(7, 3)]


async def test_a_message_stream_becomes_a_chat() -> None:
    """Or a response, by way of a chat."""
    parts = START, PING, OPEN, DELTA, *REST
    async with claude(stream(*parts), **CLAUDE) as (_, node):
        chunks = [
            part
            async for part in await node.client.chat.completions.create(model=POOL, messages=HI, stream=True)
        ]
        async with node.client.responses.stream(model=POOL, input="hi") as given:
            final = await given.get_final_response()

    assert "".join(part.choices[0].delta.content or "" for part in chunks) == "hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert final.output_text == "hello"
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens) == (5, 3)
    assert node.booked == [(5, 3)] * 2


async def test_what_claude_says_is_wrong_is_told_in_openais_words() -> None:
    """And what it cannot be asked by chat is refused before anybody is asked."""
    said = orjson.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "too hot"}})
    async with claude(Answer(said, status=400), **CLAUDE) as (_, node):
        with pytest.raises(openai.BadRequestError) as caught:
            await node.client.chat.completions.create(model=POOL, messages=HI)
        for field, beyond in (("n", {"n": 2}), ("logprobs", {"logprobs": True})):
            with pytest.raises(openai.BadRequestError) as refusal:
                await node.client.chat.completions.create(model=POOL, messages=HI, **beyond)  # type: ignore[call-overload]
            assert (refusal.value.code, refusal.value.param) == ("unsupported_feature", field)

    assert caught.value.body["message"] == "too hot"  # type: ignore[index]
    assert len(node.asked) == 1


async def test_claude_counts_by_itself() -> None:
    """Where it is asked first; if it does not answer, the estimate does. Nothing is booked either way."""
    told = answer({"input_tokens": 12})
    async with claude([told, refused(500)], **CLAUDE) as (client, node):
        exact = await client.messages.count_tokens(model=POOL, messages=HI)
        estimated = await client.messages.count_tokens(model=POOL, messages=HI)

        node.front.place.view.models["alpha.m"] = EntityState(
            status="standby", reason="manual", mode="manual"
        )
        away = await client.messages.count_tokens(model=POOL, messages=HI)

    assert away == estimated
    assert node.asked == ["alpha/v1/messages/count_tokens"] * 2
    assert node.sent[0] == {"model": "m", "messages": HI}
    assert exact.input_tokens == 12
    assert estimated.input_tokens > 12
    assert node.settled == []


# -- counts


async def test_tokens_are_counted_without_asking_anybody() -> None:
    """As they would be reserved; a picture is not its bytes. Nothing is booked."""
    picture = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}
    shown: Any = [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": picture}]}
            ],
        }
    ]
    async with claude(AssertionError("not to be asked")) as (client, node):
        few = await client.messages.count_tokens(model=POOL, messages=HI)
        more = await client.messages.count_tokens(model=POOL, messages=HI, system="be brief", tools=[WEATHER])
        seen = await client.messages.count_tokens(model=POOL, messages=shown)
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="nobody", messages=HI)
        names = [model.id async for model in client.models.list()]

    assert 0 < few.input_tokens < more.input_tokens < 200
    assert 2000 < seen.input_tokens < 2100
    assert names == [POOL, "alpha.m", "beta.m"]
    assert node.settled == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_client_key_is_looked_at(known: bool) -> None:
    """Wherever Anthropic's client puts it; what it may not use is refused by both routes."""
    async with claude(whole()) as (client, node):
        if known:
            node.front.keys.found["mm-k"] = ClientKey(id="k", name="app", created=0.0, models=("else",))
        expected = anthropic.PermissionDeniedError if known else anthropic.AuthenticationError
        for keyed in (
            client.with_options(api_key="mm-k"),
            client.with_options(api_key=None, auth_token="mm-k"),
        ):
            with pytest.raises(expected):
                await keyed.messages.create(**ASK)
            with pytest.raises(expected):
                await keyed.messages.count_tokens(model=POOL, messages=HI)


async def test_what_is_no_route_is_told_in_anthropics_words_too() -> None:
    """Parts of the API that there are not, and the wrong method."""
    async with claude(whole()) as (client, _):
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.batches.list()
        with pytest.raises(anthropic.APIStatusError) as wrong:
            await client.get("/v1/messages", cast_to=object)

    bodies: Any = [missing.value.body, wrong.value.body]
    assert [body["error"]["type"] for body in bodies] == ["not_found_error", "invalid_request_error"]
    assert missing.value.request_id == bodies[0]["request_id"]
    assert wrong.value.status_code == 405
