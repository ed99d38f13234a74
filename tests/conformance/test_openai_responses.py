"""The Responses API by the official client: from providers that have it, and from those that only chat."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest

from node.engine.contract import EngineName
from shared_state.ledger import Outcome
from tests.conformance.openai_node import POOL, answer, served
from tests.unit.node.scripted import COMMENT, DONE, FAILED, ROLE, Answer, chunk, event, refused, stream, whole

NATIVE: dict[str, Any] = {"provider": {"responses": True}}
PART = {"type": "output_text", "text": "hello", "annotations": []}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [PART]}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [MESSAGE],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": True,
}


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + event({"type": kind, "sequence_number": 0, **fields})


CREATED = typed(
    "response.created", response={**RESPONSE, "status": "in_progress", "output": [], "usage": None}
)
DELTA = typed("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta="hello")
COMPLETED = typed("response.completed", response=RESPONSE)


# -- providers that have it


async def test_a_response_is_passed_on(engine: EngineName) -> None:
    """As it came, whatever the request uses of the API."""
    async with served(engine, "chat-completion", answer(RESPONSE), **NATIVE) as node:
        given = await node.client.responses.create(
            model=POOL,
            input="hi",
            instructions="be brief",
            max_output_tokens=9,
            previous_response_id="resp_0",
            tools=[{"type": "web_search"}],
        )

    assert given.output_text == "hello"
    assert node.asked == ["alpha/v1/responses"]
    assert node.sent == [
        {
            "model": "m",
            "input": "hi",
            "instructions": "be brief",
            "max_output_tokens": 9,
            "previous_response_id": "resp_0",
            "tools": [{"type": "web_search"}],
        }
    ]
    assert node.booked == [(7, 3)]
    assert [ask.tokens_out for ask in node.front.place.ledger.asks] == [9]


async def test_a_response_is_streamed(engine: EngineName) -> None:
    """Event by event; the usage is in the last."""
    async with served(engine, "chat-completion", stream(CREATED, DELTA, COMPLETED), **NATIVE) as node:
        given = await node.client.responses.create(model=POOL, input="hi", stream=True)
        events = [e async for e in given]

    assert [e.type for e in events] == [
        "response.created",
        "response.output_text.delta",
        "response.completed",
    ]
    assert "stream_options" not in node.sent[0]
    assert node.booked == [(7, 3)]


@pytest.mark.parametrize(
    "failure",
    [
        typed("response.failed", response={**RESPONSE, "error": {"code": "server_error", "message": "no"}}),
        typed("error", code="server_error", message="no", param=None),
        b"",
    ],
)
async def test_a_response_that_fails_before_its_content_is_another_models(
    engine: EngineName, failure: bytes
) -> None:
    """What opens a stream is no content: nothing of it is heard."""
    good = stream(CREATED, DELTA, COMPLETED)
    async with served(engine, "chat-completion", stream(CREATED, failure), good, **NATIVE) as node:
        events = [e async for e in await node.client.responses.create(model=POOL, input="hi", stream=True)]

    assert [e.type for e in events].count("response.created") == 1
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


async def test_a_response_that_fails_later_ends_with_an_error(engine: EngineName) -> None:
    """Of the type that the API has for it."""
    failure = typed("error", code="server_error", message="tired", param=None)
    async with served(engine, "chat-completion", stream(CREATED, DELTA, failure), **NATIVE) as node:
        given = await node.client.responses.with_raw_response.create(model=POOL, input="hi", stream=True)
        body = (await given.http_response.aread()).decode()

    assert body.count("event: error") == 1
    last = orjson.loads(body.strip().rpartition("data: ")[2])
    assert (last["type"], last["code"]) == ("error", "provider_unavailable")
    assert "tired" in last["message"]


# -- providers that only chat


async def test_a_chat_stands_in_for_a_response(engine: EngineName) -> None:
    """Its text, its end, its usage."""
    async with served(engine, "chat-completion", whole("hello")) as node:
        given = await node.client.responses.create(
            model=POOL,
            input=[
                {"role": "developer", "content": "be kind"},
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            ],
            instructions="be brief",
            max_output_tokens=9,
            temperature=0.5,
            store=False,
            text={
                "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
            },
            extra_body={"seed": 7},
        )

    assert (given.output_text, given.status) == ("hello", "completed")
    assert given.usage is not None
    assert (given.usage.input_tokens, given.usage.output_tokens, given.usage.total_tokens) == (7, 3, 10)
    assert (given.instructions, given.max_output_tokens, given.temperature) == ("be brief", 9, 0.5)
    assert node.asked == ["alpha/v1/chat/completions"]
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert node.sent == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ],
            "max_tokens": 9,
            "temperature": 0.5,
            "seed": 7,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
    ]
    assert node.booked == [(7, 3)]


async def test_functions_are_called_and_answered(engine: EngineName) -> None:
    """There and back: the call in the answer, and its result in the next request."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"town":"Ulm"}'},
    }
    asks = answer(
        {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    )
    async with served(engine, "chat-completion", [asks, whole("rain")]) as node:
        first = await node.client.responses.create(
            model=POOL, input="weather?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"}
        )
        items: list[Any] = [
            {"role": "user", "content": "weather?"},
            *first.output,
            {"type": "function_call_output", "call_id": "call_1", "output": "wet"},
        ]
        second = await node.client.responses.create(model=POOL, input=items, tools=[WEATHER])

    (asked,) = first.output
    assert asked.type == "function_call"
    assert (asked.name, asked.arguments, asked.call_id) == ("weather", '{"town":"Ulm"}', "call_1")
    assert second.output_text == "rain"
    tool = {key: WEATHER[key] for key in ("name", "description", "parameters", "strict")}
    assert node.sent[0]["tools"] == [{"type": "function", "function": tool}]
    assert node.sent[0]["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert node.sent[1]["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "wet"},
    ]


async def test_a_chat_stream_becomes_events(engine: EngineName) -> None:
    """In the order that the client's own helpers insist on, however the pieces were cut."""
    usage = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    finish = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    parts = COMMENT, ROLE, chunk("hel"), chunk("lo")[:9], chunk("lo")[9:], finish, usage, DONE
    async with (
        served(engine, "chat-completion", stream(*parts)) as node,
        node.client.responses.stream(model=POOL, input="hi") as given,
    ):
        kinds = [e.type async for e in given]
        final = await given.get_final_response()

    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == "hello"
    assert final.usage is not None
    assert final.usage.total_tokens == 10
    assert node.sent[0]["stream_options"] == {"include_usage": True}
    assert node.booked == [(7, 3)]


async def test_functions_are_called_in_a_stream(engine: EngineName) -> None:
    """Side by side, each with its arguments put together."""

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
    async with (
        served(engine, "chat-completion", stream(*parts)) as node,
        node.client.responses.stream(model=POOL, input="hi", tools=[WEATHER]) as given,
    ):
        final = await given.get_final_response()

    assert final.output_text == "let me see"
    asked = [item for item in final.output if item.type == "function_call"]
    assert [(item.call_id, item.name, item.arguments) for item in asked] == [
        ("c0", "weather", '{"town":"Ulm"}'),
        ("c1", "weather", "{}"),
    ]


async def test_a_chat_that_was_cut_is_an_incomplete_response(engine: EngineName) -> None:
    """With the reason in the API's words, whole and streamed."""
    cut = {"index": 0, "message": {"content": "hel"}, "delta": {"content": "hel"}, "finish_reason": "length"}
    answers = [answer({"choices": [cut]}), stream(event({"choices": [cut]}), DONE)]
    async with served(engine, "chat-completion", answers) as node:
        once = await node.client.responses.create(model=POOL, input="hi")
        events = [e async for e in await node.client.responses.create(model=POOL, input="hi", stream=True)]

    assert (once.status, once.output_text) == ("incomplete", "hel")
    assert once.incomplete_details is not None
    assert once.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


async def test_a_chat_that_fails_is_another_models(engine: EngineName) -> None:
    """One that has the API itself, as well as one that has not."""
    accounts = {
        name: {"connector": "openai-compatible.v1", "base_url": f"http://{name}/v1", "responses": has}
        for name, has in (("alpha", False), ("beta", True))
    }
    first, second = stream(ROLE, FAILED), stream(CREATED, DELTA, COMPLETED)
    async with served(engine, "chat-completion", first, second, providers=accounts) as node:
        events = [e async for e in await node.client.responses.create(model=POOL, input="hi", stream=True)]

    assert [e.type for e in events][-1] == "response.completed"
    assert node.asked == ["alpha/v1/chat/completions", "beta/v1/responses"]


async def test_a_chat_that_breaks_off_ends_with_an_error(engine: EngineName) -> None:
    """In the dialect of the caller; rubbish in the middle is a failure of the provider."""
    for bad in (FAILED, b"data: {rubbish\n\n"):
        async with served(engine, "chat-completion", stream(chunk("hel"), bad, DONE)) as node:
            given = await node.client.responses.with_raw_response.create(model=POOL, input="hi", stream=True)
            body = (await given.http_response.aread()).decode()

        assert body.count("event: error") == 1
        assert "response.completed" not in body
        assert [s.outcome for s in node.settled] == [Outcome.FAILURE]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input"),
        ({"input": [7]}, "input"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
    ],
)
async def test_what_a_chat_cannot_say_is_refused(
    engine: EngineName, fields: dict[str, Any], param: str
) -> None:
    """If nobody has the API itself; the field is named."""
    async with served(engine, "chat-completion", whole()) as node:
        with pytest.raises(openai.BadRequestError, match="no responses") as refusal:
            await node.client.responses.create(**{"model": POOL, "input": "hi", **fields})

    assert (refusal.value.code, refusal.value.param) == ("unsupported_feature", param)
    assert node.asked == []


async def test_what_a_chat_cannot_say_goes_to_who_has_the_api(engine: EngineName) -> None:
    """The others are passed over."""
    accounts = {
        name: {"connector": "openai-compatible.v1", "base_url": f"http://{name}/v1", "responses": has}
        for name, has in (("alpha", False), ("beta", True))
    }
    async with served(engine, "chat-completion", whole(), answer(RESPONSE), providers=accounts) as node:
        await node.client.responses.create(model=POOL, input="hi", previous_response_id="resp_0")

    assert node.asked == ["beta/v1/responses"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input": []}, "input"), ({"input": 7}, "input"), ({"max_output_tokens": 0}, "max_output_tokens")],
)
async def test_a_bad_request_is_the_callers_mistake(
    engine: EngineName, fields: dict[str, Any], param: str
) -> None:
    """Told in the API's shape, without asking anybody."""
    async with served(engine, "chat-completion", whole()) as node:
        with pytest.raises(openai.BadRequestError) as refusal:
            await node.client.responses.create(**{"model": POOL, "input": "hi", **fields})

    assert refusal.value.param == param
    assert node.asked == []


@pytest.mark.parametrize("first", [refused(503), Answer(b"<html>"), answer({"error": {"message": "no"}})])
async def test_a_whole_answer_that_is_none_is_another_models(engine: EngineName, first: Any) -> None:
    """Translated or not."""
    async with served(engine, "chat-completion", first, whole("hello")) as node:
        given = await node.client.responses.create(model=POOL, input="hi")

    assert given.output_text == "hello"
    assert node.asked == ["alpha/v1/chat/completions", "beta/v1/chat/completions"]
