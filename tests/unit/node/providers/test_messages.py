"""The Messages API for providers that only chat: what is said comes across, what cannot be said is named."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.providers.messages import MessageEvents, answer_of, beyond_chat, chat_fields, own_fields
from tests.unit.node.scripted import COMMENT, DONE, FINISH, ROLE, USAGE, chunk, event

HI = [{"role": "user", "content": "hi"}]
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
SEEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"name": "weather", "description": "of a town", "input_schema": {"type": "object"}}
FUNCTION = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}, "description": "of a town"},
}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def asks(messages: Any = None, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": HI if messages is None else messages, **fields}


def said_by(*blocks: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


# -- the request


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (HI, HI),
        (said_by(text("a")), [{"role": "user", "content": "a"}]),
        (
            said_by(text("a"), text("b", cache_control={"type": "ephemeral"})),
            [{"role": "user", "content": "a\n\nb"}],
        ),
        (said_by(), [{"role": "user", "content": ""}]),
        (said_by(text("a"), PNG), [{"role": "user", "content": [text("a"), SEEN]}]),
        (
            said_by({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}),
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}],
        ),
        (
            said_by(
                {
                    "type": "document",
                    "title": "t.pdf",
                    "source": {**PNG["source"], "media_type": "application/pdf"},
                }
            ),
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                        }
                    ],
                }
            ],
        ),
        (
            said_by({"type": "document", "title": "t", "source": {"type": "text", "data": "abc"}}),
            [{"role": "user", "content": "t\n\nabc"}],
        ),
        ([{"role": "system", "content": [text("later")]}], [{"role": "system", "content": "later"}]),
        (said_by(text("a"), text("b"), role="assistant"), [{"role": "assistant", "content": "ab"}]),
        (
            said_by({"type": "thinking", "thinking": "hm", "signature": "s"}, text("a"), role="assistant"),
            [{"role": "assistant", "content": "a"}],
        ),
        (
            said_by({"type": "redacted_thinking", "data": "x"}, role="assistant"),
            [{"role": "assistant", "content": ""}],
        ),
    ],
)
def test_what_is_said_comes_across(given: Any, expected: Any) -> None:
    """Text as text, what is seen as a part, thoughts of an earlier turn not at all."""
    assert chat_fields(asks(given))["messages"] == expected


def test_tools_are_called_and_answered() -> None:
    """Side by side; results stand right behind the calls, whatever else the user says, and what they show follows."""
    calls = [
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"town": "Ulm"}},
        {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [text("wet"), PNG]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "broken", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t3"},
        text("and?"),
    ]
    given = [*HI, *said_by(text("let me see"), *calls, role="assistant"), *said_by(*results)]

    assert chat_fields(asks(given))["messages"] == [
        *HI,
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"town":"Ulm"}'},
                },
                {"id": "t2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "wet\n\n(attached below)"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: broken"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": [SEEN, text("and?")]},
    ]
    alone = chat_fields(asks(said_by(calls[1], role="assistant")))["messages"][0]
    assert (alone["content"], len(alone["tool_calls"])) == (None, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"metadata": {}}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, {"temperature": 0.5, "top_p": 0.9, "seed": 7}),
        ({"top_k": 5, "service_tier": "auto", "cache_control": {"type": "ephemeral"}}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
        ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": [FUNCTION], "tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
        (
            {
                "tools": [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}],
                "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            },
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "parallel_tool_calls": False,
            },
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {}),
    ],
)
def test_fields_have_other_names(given: Any, expected: Any) -> None:
    """What a chat has a word for is passed on; a hint without one is left out."""
    assert chat_fields(asks(**given)) == {"model": "m", "messages": HI, "max_tokens": 9, **expected}


@pytest.mark.parametrize("system", ["a\n\nb", [text("a", cache_control={"type": "ephemeral"}), text("b")]])
def test_the_system_prompt_comes_first(system: Any) -> None:
    """Whether it is one text or several blocks."""
    assert chat_fields(asks(system=system))["messages"] == [{"role": "system", "content": "a\n\nb"}, *HI]


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_models_that_reason_are_told_how_much(given: Any, effort: str | None) -> None:
    """Others would refuse the word; their bound has another name too."""
    fields = chat_fields(asks(**given), bound="max_completion_tokens", thinks=True)

    assert (fields.get("reasoning_effort"), fields["max_completion_tokens"]) == (effort, 9)


def test_a_long_name_of_a_user_is_cut_to_a_digest() -> None:
    """OpenAI takes 64 characters; who it is does not matter, that it is the same does."""
    first, again, other = (
        chat_fields(asks(metadata={"user_id": name * 40}))["user"] for name in ("ab", "ab", "cd")
    )

    assert first == again != other
    assert len(first) == 64


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"container": {"id": "c"}}, "container"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"system": [PNG]}, "system"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"tools": "x"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config"),
        ({"output_format": {"type": "grammar"}}, "output_format"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": said_by({"type": "image", "source": {"type": "file", "file_id": "f"}})}, "messages"),
        ({"messages": said_by({"type": "document", "source": {"type": "url", "url": "u"}})}, "messages"),
        ({"messages": said_by({"type": "search_result"})}, "messages"),
        ({"messages": said_by("text")}, "messages"),
        ({"messages": said_by({"type": "server_tool_use"}, role="assistant")}, "messages"),
        ({"messages": said_by({"type": "tool_result", "content": [{"type": "x"}]})}, "messages"),
        ({}, ""),
    ],
)
def test_what_chat_has_no_words_for_is_named(given: Any, field: str) -> None:
    """Nothing that matters is dropped in silence."""
    assert beyond_chat({**asks(), **given}) == field


def test_thoughts_that_nobody_signed_do_not_go_to_who_checks() -> None:
    """They come from a model that only chats; everything else is as it came."""
    unsigned, signed = ({"type": "thinking", "thinking": "hm", "signature": s} for s in ("", "s"))
    mixed = asks([*HI, *said_by(unsigned, signed, text("a"), role="assistant")], extra=1)

    assert own_fields(mixed)["messages"][1]["content"] == [signed, text("a")]
    assert own_fields(mixed)["extra"] == 1
    plain = asks(said_by(signed, text("a"), role="assistant"))
    assert own_fields(plain) is plain


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "thinking", "x"])},
        optional=dict.fromkeys(("text", "source", "content", "input", "id", "is_error", "title"), JSON),
    )
    | JSON,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    role=st.sampled_from(["user", "assistant", "system"]),
    content=BLOCKS,
    name=st.sampled_from(
        ["system", "tools", "tool_choice", "metadata", "thinking", "output_config", "stop_sequences"]
    ),
    value=JSON | BLOCKS,
)
def test_whatever_it_is_it_can_be_said_or_not(role: str, content: Any, name: str, value: Any) -> None:
    """A body that makes no sense is no reason to fall over."""
    fields = {**asks([{"role": role, "content": content}]), "tools": [TOOL], name: value}
    if not beyond_chat(fields):
        orjson.dumps(chat_fields(fields, thinks=True), option=orjson.OPT_NON_STR_KEYS)
    own_fields(fields)


# -- the answer


def chat(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"model": "real", "choices": [{"index": 0, "message": message, "finish_reason": finish, **more}]}


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "content": None,
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}, **more}],
    }


@pytest.mark.parametrize(
    ("answer", "content", "reason"),
    [
        (chat({"content": "a"}), [text("a")], "end_turn"),
        (chat({"content": "a"}, "length"), [text("a")], "max_tokens"),
        (chat({"content": [{"type": "thinking"}, text("a"), text("b")]}), [text("ab")], "end_turn"),
        (chat({"content": ""}, None), [], "end_turn"),
        (chat({"content": None, "refusal": "no"}), [text("no")], "refusal"),
        (chat({"content": "a"}, "content_filter"), [text("a")], "refusal"),
        (chat({"content": "a", "reasoning_content": "hm"}), [text("a")], "end_turn"),
        (
            chat({"content": "a", **called('{"x":1}') | {"content": "a"}}, "tool_calls"),
            [text("a"), {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}],
            "tool_use",
        ),
        (chat(called("")), [{"type": "tool_use", "id": "c", "name": "f", "input": {}}], "tool_use"),
        (
            chat(called('{"x":')),
            [{"type": "tool_use", "id": "c", "name": "f", "input": {"arguments": '{"x":'}}],
            "tool_use",
        ),
        ({}, [], "end_turn"),
    ],
)
def test_an_answer_is_a_message(answer: Any, content: Any, reason: str) -> None:
    """Its blocks, and why it ended."""
    message = answer_of(answer, asks())

    assert (message["content"], message["stop_reason"]) == (content, reason)
    assert (message["type"], message["role"], message["id"][:4]) == ("message", "assistant", "msg_")
    assert message["model"] == ("real" if answer else "m")


def test_thoughts_are_shown_to_who_asks_for_them() -> None:
    """Under either of their names."""
    asked = asks(thinking={"type": "enabled", "budget_tokens": 1024})
    for name in ("reasoning_content", "reasoning"):
        blocks = answer_of(chat({"content": "a", name: "hm"}), asked)["content"]

        assert blocks == [{"type": "thinking", "thinking": "hm", "signature": ""}, text("a")]


def test_a_sequence_that_ended_it_is_named_where_the_server_tells() -> None:
    """vLLM says which one it was."""
    asked = asks(stop_sequences=["END"])
    told, other = (answer_of(chat({"content": "a"}, stop_reason=stop), asked) for stop in ("END", None))

    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")
    assert (other["stop_reason"], other["stop_sequence"]) == ("end_turn", None)


def test_what_came_out_of_a_cache_is_told_apart() -> None:
    """OpenAI counts it among the rest, Anthropic does not."""
    details = {"cached_tokens": 4}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": details}

    assert answer_of({**chat({"content": "a"}), "usage": usage}, asks())["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }


# -- streams


def heard(*pieces: bytes, asked: Any = None) -> list[dict[str, Any]]:
    """The events that pieces of a chat stream come to, each with the name that it says."""
    events = MessageEvents(asked or asks())
    out = b"".join([*(events.feed(piece) for piece in pieces), events.finish()])
    found = []
    for one in out.split(b"\n\n")[:-1]:
        name, data = one.split(b"\n")
        fields = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + fields["type"].encode()
        found.append(fields)
    return found


def blocks_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts a message together, and insists that its blocks come one after the other."""
    assert events[0]["type"] == "message_start"
    assert [e["type"] for e in events[-2:]] == ["message_delta", "message_stop"]
    blocks: list[dict[str, Any]] = []
    is_open = False
    for e in events[1:-2]:
        if e["type"] == "ping":
            continue
        assert e["index"] == len(blocks) - (e["type"] != "content_block_start")
        assert is_open == (e["type"] != "content_block_start")
        is_open = e["type"] != "content_block_stop"
        if e["type"] == "content_block_start":
            blocks.append({**e["content_block"], "pieces": []})
        elif e["type"] == "content_block_delta":
            (piece,) = [value for name, value in e["delta"].items() if name != "type"]
            blocks[-1]["pieces"].append(piece)
    assert not is_open
    return blocks


def call(*pieces: tuple[int, dict[str, Any]], **more: Any) -> bytes:
    calls = [{"index": index, **piece} for index, piece in pieces]
    return event({"choices": [{"index": 0, "delta": {"tool_calls": calls, **more}}]})


def begins(index: int, arguments: str = "") -> tuple[int, dict[str, Any]]:
    return index, {"id": f"c{index}", "function": {"name": f"f{index}", "arguments": arguments}}


def goes_on(index: int, arguments: str) -> tuple[int, dict[str, Any]]:
    return index, {"function": {"arguments": arguments}}


def test_text_is_streamed() -> None:
    """Piece by piece, with the usage at the end; a comment of the provider is a sign of life."""
    events = heard(ROLE, COMMENT, chunk("hel"), chunk("lo"), FINISH, USAGE, DONE)

    assert [e["type"] for e in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] == 0
    assert [b["pieces"] for b in blocks_of(events)] == [["hel", "lo"]]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (7, 3)


def test_it_does_not_matter_how_a_stream_is_cut() -> None:
    """Every place between two bytes."""
    whole = b"".join([chunk("hé"), call(begins(0, '{"a":1}')), FINISH, DONE])
    expected = blocks_of(heard(whole))
    for at in range(1, len(whole)):
        assert blocks_of(heard(whole[:at], whole[at:])) == expected


@pytest.mark.parametrize(
    "pieces",
    [
        # one after the other
        [
            call(begins(0)),
            call(goes_on(0, '{"a":')),
            call(goes_on(0, "1}")),
            call(begins(1)),
            call(goes_on(1, "{}")),
        ],
        # both begin, then both go on
        [
            call(begins(0)),
            call(begins(1)),
            call(goes_on(0, '{"a":')),
            call(goes_on(1, "{}")),
            call(goes_on(0, "1}")),
        ],
        [call(begins(0, '{"a":'), begins(1, "{")), call(goes_on(1, "}"), goes_on(0, "1}"))],
        # all at once
        [call(begins(0, '{"a":1}'), begins(1, "{}"))],
    ],
)
def test_functions_that_are_called_side_by_side_come_one_after_the_other(pieces: list[bytes]) -> None:
    """Whatever the order in which a provider tells their arguments, each is whole."""
    events = heard(ROLE, *pieces, event({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}), DONE)
    first, second = blocks_of(events)

    assert (first["type"], first["id"], first["name"], first["input"]) == ("tool_use", "c0", "f0", {})
    assert (second["id"], second["name"]) == ("c1", "f1")
    assert ["".join(b["pieces"]) for b in (first, second)] == ['{"a":1}', "{}"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_arguments_are_heard_as_they_come() -> None:
    """A caller who shows them while they grow need not wait for the end."""
    events = MessageEvents(asks())
    outs = [
        events.feed(piece) for piece in (call(begins(0)), call(goes_on(0, '{"a"')), call(goes_on(0, ":1}")))
    ]

    assert [out.count(b"input_json_delta") for out in outs] == [0, 1, 1]


def test_every_order_of_two_calls_is_told_whole() -> None:
    """All ways in which the pieces of two calls and a text can be shuffled into each other."""
    one, two = [begins(0), goes_on(0, '{"a"'), goes_on(0, ":1}")], [begins(1), goes_on(1, "{}")]
    for places in itertools.combinations(range(5), 3):
        left, right = iter(one), iter(two)
        pieces = [next(left) if place in places else next(right) for place in range(5)]
        blocks = blocks_of(heard(chunk("so: "), *map(call, pieces), DONE))

        told = {b.get("name"): "".join(b["pieces"]) for b in blocks}
        assert told == {None: "so: ", "f0": '{"a":1}', "f1": "{}"}


def test_text_behind_a_call_is_another_block() -> None:
    """And a call without arguments is one all the same."""
    blocks = blocks_of(heard(chunk("a"), call(begins(0)), chunk("b"), FINISH, DONE))

    assert [(b["type"], "".join(b["pieces"])) for b in blocks] == [
        ("text", "a"),
        ("tool_use", ""),
        ("text", "b"),
    ]


def test_thoughts_are_streamed_to_who_asks() -> None:
    """Others hear now and then that somebody is there."""
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    asked = asks(thinking={"type": "adaptive"})
    shown = blocks_of(heard(thought, thought, chunk("a"), DONE, asked=asked))
    hidden = heard(*[thought] * 40, chunk("a"), DONE)

    assert [(b["type"], b["pieces"]) for b in shown] == [("thinking", ["hm", "hm"]), ("text", ["a"])]
    assert [b["type"] for b in blocks_of(hidden)] == ["text"]
    assert [e["type"] for e in hidden].count("ping") == 2


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([event({"choices": [{"delta": {}, "finish_reason": "length"}]}), DONE], "max_tokens"),
        ([event({"choices": [{"delta": {"refusal": "no"}, "finish_reason": "stop"}]}), DONE], "refusal"),
        ([event({"choices": None}), event({"choices": []}), DONE], "end_turn"),
        ([FINISH], "end_turn"),
    ],
)
def test_a_stream_says_why_it_ended(pieces: list[bytes], reason: str) -> None:
    """With or without content, and once."""
    events = heard(*pieces)

    assert events[-2]["delta"]["stop_reason"] == reason
    blocks_of(events)
