"""What is read off a body."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.needs import NAMES, Feature, Needs, needs_of, param_of, words_in

HI = {"role": "user", "content": "hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 400, "format": "wav"}}
PAPER = {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 8000}}


def needs(**fields: Any) -> Needs:
    body = {"model": "chat", "messages": [HI], **fields}
    return needs_of(body, len(orjson.dumps(body)))


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}]}


# -- what a body wants, and which field wants it

BODIES = [
    ({}, 0, None),
    ({"tools": [{"type": "function"}]}, Feature.TOOL_CALLING, "tools"),
    ({"tools": []}, 0, None),
    ({"tools": None, "tool_choice": "none"}, 0, None),
    ({"functions": [{}]}, Feature.TOOL_CALLING, "functions"),
    ({"tool_choice": "auto"}, Feature.TOOL_CALLING, "tool_choice"),
    ({"messages": [HI, {"role": "tool", "content": "4"}]}, Feature.TOOL_CALLING, "messages"),
    (said(PICTURE), Feature.VISION, "messages"),
    (said({"type": "text", "text": "hi"}), 0, None),
    (said(SOUND), Feature.AUDIO, "messages"),
    ({"modalities": ["text", "audio"]}, Feature.AUDIO, "modalities"),
    ({"audio": {"voice": "alloy"}}, Feature.AUDIO, "audio"),
    (said(PAPER), Feature.FILES, "messages"),
    ({"response_format": {"type": "text"}}, 0, None),
    ({"response_format": {"type": "json_object"}}, Feature.JSON_MODE, "response_format"),
    ({"response_format": {"type": "json_schema"}}, Feature.STRUCTURED_OUTPUT, "response_format"),
    ({"text": {"format": {"type": "json_schema"}}}, Feature.STRUCTURED_OUTPUT, "text"),
    ({"logprobs": True}, Feature.LOGPROBS, "logprobs"),
    ({"logprobs": False}, 0, None),
    ({"top_logprobs": 3}, Feature.LOGPROBS, "top_logprobs"),
    ({"reasoning_effort": "low"}, Feature.REASONING, "reasoning_effort"),
    ({"reasoning_effort": "none"}, 0, None),
    ({"web_search_options": {"x": 1}}, Feature.GROUNDING, "web_search_options"),
    ({"messages": [{"role": "developer", "content": "x"}, HI]}, Feature.SYSTEM_PROMPT, "messages"),
    ({"messages": None, "input": [{"role": "user", "content": [PICTURE]}]}, Feature.VISION, "input"),
    # the words of the Messages API
    ({"system": "be brief"}, Feature.SYSTEM_PROMPT, "system"),
    ({"system": ""}, 0, None),
    (said({"type": "image", "source": {"type": "url", "url": "u"}}), Feature.VISION, "messages"),
    (said({"type": "document", "source": {"type": "base64", "data": "A"}}), Feature.FILES, "messages"),
    (said({"type": "document", "source": {"type": "text", "data": "A"}}), 0, None),
    (said({"type": "tool_use", "id": "t"}, role="assistant"), Feature.TOOL_CALLING, "messages"),
    (said({"type": "tool_result", "content": "wet"}), Feature.TOOL_CALLING, "messages"),
    ({"output_config": {"format": {"type": "json_schema"}}}, Feature.STRUCTURED_OUTPUT, "output_config"),
    ({"output_config": {"effort": "low"}}, 0, None),
    ({"output_format": {"type": "json_schema"}}, Feature.STRUCTURED_OUTPUT, "output_format"),
]


@pytest.mark.parametrize(("fields", "wants", "param"), BODIES)
def test_a_body_says_which_features_it_needs(fields, wants, param):
    """Each field and each kind of part stands for one feature; empty and switched-off fields for none."""
    body = {"model": "chat", "messages": [HI], **fields}

    assert needs(**fields).wants == wants
    if param:
        assert param_of(NAMES[int(wants)], body) == param


# -- sizes


@pytest.mark.parametrize(
    ("fields", "output", "param"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7, "max_completion_tokens"),
        ({"max_tokens": 5}, 5, "max_tokens"),
        ({"max_output_tokens": 9}, 9, "max_output_tokens"),
        ({"max_tokens": True}, 0, "max_tokens"),
        ({"max_tokens": "5"}, 0, "max_tokens"),
    ],
)
def test_the_stated_output_is_read(fields, output, param):
    """Per answer, by any of its names."""
    assert needs(**fields).output == output
    assert param_of("max_output_tokens", fields) == param


def test_media_count_by_number_and_not_by_the_bytes_that_carry_them():
    """A picture of 3 KB is no text of 4,000 characters."""
    found = needs(**said(PICTURE, PICTURE, PAPER, {"type": "text", "text": "x" * 60}))

    assert (found.images, found.file_bytes) == (2, 6000)
    assert found.input_least == 10
    assert 4500 < found.input_most < 5000


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("x" * 600, 100, None),
        (["x" * 600, "x" * 1200], 200, 600),
        (["ü" * 600], 100, 900),
        ([1] * 50, 50, 50),
        ([[1] * 50, [2] * 70], 70, 70),
    ],
)
def test_inputs_of_an_embedding_count_one_by_one(field, least, most):
    """A list of texts is many inputs, each with the window for itself; tokens are exact."""
    found = needs_of({"input": field}, 1000)

    assert found.input_least == least
    assert found.input_most == (500 if most is None else most)


def test_a_run_of_one_character_is_no_long_text():
    """A tokenizer may fold a hundred spaces into one token: only words are surely tokens."""
    body = {"messages": [{"role": "user", "content": "a " + " " * 60_000 + " b"}]}

    assert needs_of(body, 60_100).input_least >= 10_000
    assert words_in(body, 1000) == 2


@pytest.mark.parametrize("shape", ["text", "parts", "prompt", "inputs"])
def test_words_are_counted_in_every_shape_of_input(shape):
    """And not much beyond what matters."""
    text = "word " * 100_000
    fields: dict[str, Any] = {
        "text": {"messages": [HI, {"role": "user", "content": text}]},
        "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        "prompt": {"prompt": text},
        "inputs": {"input": ["short", text]},
    }[shape]

    assert 500 < words_in(fields, 500) < 20_000
    assert 99_990 < words_in(fields, 99_999) <= 100_000


# -- any JSON

_WORDS = [name for fields, _, _ in BODIES for name in fields] + [
    *(
        "model",
        "input",
        "prompt",
        "content",
        "role",
        "type",
        "text",
        "language",
        "max_tokens",
        "url",
        "data",
        "n",
    ),
    *("json_schema", "json_object", "image_url", "input_audio", "file", "user", "system", "tool"),
]
_KEYS = st.sampled_from(_WORDS) | st.text(max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(st.dictionaries(_KEYS, _JSON | st.sampled_from(_WORDS), max_size=8))
def test_no_json_makes_it_raise(fields):
    """Bodies come from anywhere: whatever they hold, there is an answer."""
    found = needs_of(fields, 1000)
    words_in(fields, 100)

    assert 0 <= found.wants < 1024
    assert min(found[1:6]) >= 0
    assert all(isinstance(param_of(name, fields), str) for name in (*NAMES.values(), "max_output_tokens"))


@given(st.lists(st.text(alphabet="ab \n", max_size=200), min_size=1, max_size=20))
def test_the_careful_estimate_is_never_below_the_hopeful_one(texts):
    """What surely does not fit never counts as what surely does."""
    body = {"messages": [{"role": "user", "content": text} for text in texts]}
    found = needs_of(body, len(orjson.dumps(body)))

    assert found.input_least <= found.input_most


def test_a_body_of_countless_parts_is_not_walked_to_its_end():
    """What lies beyond the bound is neither seen nor paid for."""
    crumbs = [{"role": "user", "content": ""}] * 50_000

    assert needs(messages=[*crumbs, {"role": "tool", "content": ""}]).wants == 0


@pytest.mark.parametrize("system", ["word " * 600, [{"type": "text", "text": "word " * 600}]])
def test_a_system_prompt_that_stands_apart_is_a_part_of_the_text(system: Any) -> None:
    """Of its length, and of its words; what a tool has said is, too."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": "wet " * 300}
    body = {"messages": [HI, {"role": "user", "content": [result]}], "system": system}

    assert needs_of(body, 10_000).input_least == 3000 // 6 + 1202 // 6
    assert words_in(body, 10_000) == 901


def test_what_a_tool_has_shown_must_be_seen() -> None:
    """A picture in its result is one like any other."""
    shown = needs(
        **said({"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 40}}]})
    )

    assert shown.wants == Feature.TOOL_CALLING | Feature.VISION
    assert (shown.images, shown.file_bytes) == (1, 30)
