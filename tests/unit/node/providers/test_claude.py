"""Chat for providers that only have the Messages API: what is said comes across, what cannot be said is named."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from node.providers.claude import ChatEvents, answer_of, beyond_messages, message_fields
from node.providers.messages import MessageEvents, chat_fields
from node.providers.messages import answer_of as message_of
from tests.unit.node.scripted import event

HI = {"role": "user", "content": "hi"}
TOLD = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
FUNCTION = {"name": "weather", "description": "of a town", "parameters": {"type": "object"}}
TOOL = {"name": "weather", "description": "of a town", "input_schema": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def asks(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages) or [HI], **fields}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}


# -- the request


def test_a_conversation_is_turns_and_a_system_prompt() -> None:
    """Wherever its parts stand; results of tools and what the user says besides are one turn."""
    given = asks(
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                text("look"),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("a", '{"x":1}'), call("b", ""), call("c", "{")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "wet"},
        {"role": "tool", "tool_call_id": "b", "content": [text("dry")]},
        {"role": "developer", "content": [text("be kind")]},
        {"role": "user", "content": "and?"},
    )
    asked = message_fields(given, most_output=4096)

    assert asked["system"] == "be brief\n\nbe kind"
    assert asked["max_tokens"] == 4096
    assert asked["messages"] == [
        {
            "role": "user",
            "content": [
                text("look"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "a", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "b", "input": {}},
                {"type": "tool_use", "id": "c", "name": "c", "input": {"arguments": "{"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "wet"},
                {"type": "tool_result", "tool_use_id": "b", "content": [text("dry")]},
                text("and?"),
            ],
        },
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (
            {"type": "file", "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,AA"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
                "title": "t.pdf",
            },
        ),
    ],
)
def test_what_is_shown_is_a_block(part: Any, block: Any) -> None:
    """In line, or by its address."""
    (turn,) = message_fields(asks({"role": "user", "content": [text(""), part]}), most_output=1)["messages"]

    assert turn["content"] == [block]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 8, "max_tokens": 9}, {"max_tokens": 8}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "y"], "user": "u"}, {"stop_sequences": ["x", "y"], "metadata": {"user_id": "u"}}),
        ({"temperature": 1.7, "top_p": 0.5}, {"temperature": 1.0, "top_p": 0.5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_k": 5, "thinking": {"type": "adaptive"}}, {"top_k": 5, "thinking": {"type": "adaptive"}}),
        ({"n": 1, "seed": 7, "presence_penalty": 1, "stream_options": {}, "store": True}, {}),
        ({"stream": True}, {"stream": True}),
        ({"reasoning_effort": "none", "audio": None, "logit_bias": {}, "unheard": None}, {}),
        ({"tools": TOOLS}, {"tools": [TOOL]}),
        ({"tools": TOOLS, "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        (
            {"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "none"}},
        ),
        (
            {"tools": TOOLS, "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
        ),
        ({"response_format": {"type": "text"}}, {}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}},
                }
            },
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
    ],
)
def test_fields_have_other_names(given: Any, expected: Any) -> None:
    """What is not known here goes on; a hint without a word for it is left out."""
    base = {"model": "m", "messages": [TOLD], "max_tokens": 100}

    assert message_fields(asks(**given), most_output=100) == {**base, **expected}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (asks(n=2), "n"),
        (asks(functions=[FUNCTION]), "functions"),
        (asks(logit_bias={"1": 1}), "logit_bias"),
        (asks(tools=[{"type": "custom"}]), "tools"),
        (asks(tools=TOOLS, tool_choice={"type": "allowed_tools"}), "tool_choice"),
        (asks(response_format={"type": "json_object"}), "response_format"),
        (asks(response_format="json"), "response_format"),
        (asks({"role": "function", "content": "x"}), "messages"),
        (asks({"role": "user", "content": [{"type": "input_audio"}]}), "messages"),
        (asks({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}), "messages"),
        (asks({"role": "user", "content": 7}), "messages"),
        (asks({"role": "system", "content": [{"type": "image_url", "image_url": "u"}]}), "messages"),
        (asks(), ""),
    ],
)
def test_what_messages_have_no_words_for_is_named(given: Any, field: str) -> None:
    """Nothing that matters is dropped in silence."""
    assert beyond_messages(given) == field


def test_marks_for_the_cache_stay() -> None:
    """In texts, in the system prompt, which then is no longer one text, and at tools."""
    mark = {"cache_control": {"type": "ephemeral"}}
    system = {"role": "system", "content": [{**text("long"), **mark}, text("short")]}
    user = {"role": "user", "content": [{**text("hi"), **mark}]}
    asked = message_fields(asks(system, user, tools=[{**TOOLS[0], **mark}]), most_output=1)

    assert asked["system"] == [{**text("long"), **mark}, text("short")]
    assert asked["messages"] == [{"role": "user", "content": [{**text("hi"), **mark}]}]
    assert asked["tools"] == [{**TOOL, **mark}]


# -- the answer

USED = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 3}


def test_a_message_is_a_chat_completion() -> None:
    """Its texts, thoughts and calls; what came from a cache is input like the rest."""
    content = [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("a"), text("b"), USED]
    message = {"id": "msg_1", "model": "real", "content": content, "stop_reason": "tool_use", "usage": USAGE}
    chat = answer_of(message, asks())

    assert (chat["object"], chat["model"]) == ("chat.completion", "real")
    (choice,) = chat["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "ab",
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
    }
    assert chat["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        (None, "stop"),
    ],
)
def test_a_chat_says_why_it_ended(reason: Any, finish: str) -> None:
    """An empty answer is one."""
    (choice,) = answer_of({"content": [], "stop_reason": reason}, asks())["choices"]

    assert (choice["finish_reason"], choice["message"]["content"]) == (finish, None)


# -- streams


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + event({"type": kind, **fields})


def streamed(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], reason: str = "end_turn") -> list[bytes]:
    parts = [
        typed(
            "message_start", message={"id": "msg_1", "model": "real", "usage": {**USAGE, "output_tokens": 1}}
        )
    ]
    for index, (block, deltas) in enumerate(blocks):
        parts.append(typed("content_block_start", index=index, content_block=block))
        parts += [typed("content_block_delta", index=index, delta=delta) for delta in deltas]
        parts.append(typed("content_block_stop", index=index))
    parts.append(typed("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3}))
    return [*parts, typed("message_stop")]


def heard(parts: list[bytes], **asked: Any) -> list[Any]:
    events = ChatEvents(asks(**asked))
    out = b"".join([*(events.feed(part) for part in parts), events.finish()])
    assert out.endswith(b"data: [DONE]\n\n")
    assert out.count(b"[DONE]") == 1
    return [orjson.loads(one.removeprefix(b"data: ")) for one in out.split(b"\n\n")[:-2] if one[:1] != b":"]


def json_delta(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


TALK = streamed(
    (
        {"type": "thinking", "thinking": ""},
        [{"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s"}],
    ),
    (text(""), [{"type": "text_delta", "text": "hel"}, {"type": "text_delta", "text": "lo"}]),
    ({**USED, "input": {}}, [json_delta(""), json_delta('{"x":'), json_delta("1}")]),
    ({**USED, "id": "u", "input": {}}, []),
    ({**USED, "id": "v"}, []),
    reason="tool_use",
)


def test_events_become_chunks() -> None:
    """Text, thoughts and calls, each call under an index of its own; one without arguments has an empty object."""
    chunks = heard(TALK)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [piece for delta in deltas for piece in delta.get("tool_calls", [])]

    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-msg_1"}
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:] if "content" in delta] == ["hel", "lo"]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["hm"]
    assert [(piece["index"], piece["id"]) for piece in calls if "id" in piece] == [
        (0, "t"),
        (1, "u"),
        (2, "v"),
    ]
    told = ["".join(p["function"]["arguments"] for p in calls if p["index"] == index) for index in range(3)]
    assert told == ['{"x":1}', "{}", '{"x":1}']
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]


def test_the_usage_is_told_to_who_wants_it() -> None:
    """In a chunk of its own at the end."""
    without = heard(TALK)
    last = heard(TALK, stream_options={"include_usage": True})[-1]

    assert all(chunk["choices"] for chunk in without)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (7, 3)


def test_it_does_not_matter_how_a_stream_is_cut() -> None:
    """A ping becomes a comment."""
    whole = b"".join([*TALK[:3], typed("ping"), *TALK[3:]])
    expected = heard([whole])
    for at in range(1, len(whole), 7):
        assert [c["choices"] for c in heard([whole[:at], whole[at:]])] == [c["choices"] for c in expected]
    assert ChatEvents(asks()).feed(typed("ping")) == b": ping\n\n"


# -- there and back


def test_a_request_survives_both_ways() -> None:
    """What one translation says the other understands."""
    given = {
        "model": "m",
        "max_tokens": 9,
        "system": "be brief",
        "messages": [
            TOLD,
            {"role": "assistant", "content": [text("a"), USED]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": "wet"}, text("b")],
            },
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
    }

    assert message_fields(chat_fields(given), most_output=1) == given


def test_answers_survive_both_ways() -> None:
    """Whole and streamed."""
    asked = {"model": "m", "thinking": {"type": "adaptive"}}
    message = {"model": "real", "content": [text("a"), USED], "stop_reason": "tool_use", "usage": USAGE}
    back = message_of(answer_of(message, asks()), asked)
    forth, events = ChatEvents(asks(stream_options={"include_usage": True})), MessageEvents(asked)
    stream = b"".join([*(events.feed(forth.feed(part)) for part in TALK), events.finish()])

    assert (back["content"], back["stop_reason"]) == (message["content"], "tool_use")
    assert back["usage"]["input_tokens"] == 5
    assert back["usage"]["cache_read_input_tokens"] == 2
    assert stream.count(b"event: content_block_start") == 5
    assert b'"stop_reason":"tool_use"' in stream
