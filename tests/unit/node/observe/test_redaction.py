"""No secret leaves by the request log: by key, by look, or because it is known; also where it is cut, nested or quoted."""

from __future__ import annotations

import time

import orjson
import pytest

from node.observe.redaction import MASK, Redactor, secrets_of
from shared_state.config.root import MeshConfig

KNOWN = "provider-key-0123456789"


def redactor(most: int = 10_000, **options: object) -> Redactor:
    return Redactor(most_bytes=most, known=[KNOWN, "short"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["api_key", "API-Key", "apiKey", "clientSecret", "openai_api_key", "Authorization"])  # fmt: skip
def test_values_of_secret_keys_go_at_any_depth(name: str) -> None:
    """Whatever they hold, however the key is spelled."""
    shown = redactor().fields({"a": [{"b": {name: {"deep": "hidden-value"}}}], "max_tokens": 5})

    assert "hidden-value" not in shown
    assert orjson.loads(shown) == {"a": [{"b": {name: MASK}}], "max_tokens": 5}


def test_arguments_of_tool_calls_are_looked_into() -> None:
    """They are JSON within JSON, and may hold JSON again."""
    inner = orjson.dumps({"password": "hunter2222"}).decode()
    arguments = orjson.dumps({"user": "ann", "raw": inner, "api_key": "hidden"}).decode()
    shown = redactor().fields({"tool_calls": [{"function": {"arguments": arguments}}]})

    assert "hunter2222" not in shown
    assert "hidden" not in shown
    assert "ann" in shown


@pytest.mark.parametrize(
    "text",
    [
        "curl -H 'Authorization: Bearer abcdef123456'",
        "my key is sk-proj-abcdefghijklmnop",
        "mm-abcdefghij12345",
        "https://x.y/?api_key=abcdef99&z=1",
        f"Incorrect API key provided: {KNOWN}.",
        '{"broken": {"password": "abcdefgh',
    ],
)
def test_texts_that_look_like_secrets_are_masked(text: str) -> None:
    """In prompts, answers and error messages."""
    shown = redactor().fields({"content": text})

    assert MASK in shown
    for secret in ("abcdef", KNOWN):
        assert secret not in shown


def test_what_is_known_goes_even_where_nothing_else_does() -> None:
    """``redact: false`` shows passwords of callers, never keys of ours or of providers."""
    shown = redactor(is_on=False).fields({"password": "hunter2222", "text": f"{KNOWN} mm-abcdefghij12345"})

    assert "hunter2222" in shown
    assert KNOWN not in shown
    assert "mm-abc" not in shown


def test_names_of_ones_own_count_as_well() -> None:
    """In JSON, and in JSON that was cut."""
    mine = redactor(most=60, names=["iban"])
    cut = orjson.dumps({"iban": "DE0012345678", "x": "y" * 500})

    assert "DE00" not in mine.fields({"iban": "DE0012345678"})
    assert "DE00" not in mine.body(cut[:500], content_type="application/json", size=len(cut))


def test_nothing_is_cut_in_the_middle_of_a_secret() -> None:
    """Wherever the cut falls, no part of a secret is left before it."""
    for lead in range(60):
        text = "x" * lead + " " + KNOWN + " tail" * 200
        for shown in (
            redactor(most=40).fields({"content": text}),
            redactor(most=40).body(text.encode(), content_type="text/plain", size=len(text)),
            redactor(most=40).body(text.encode()[:700], content_type="text/plain", size=9999),
        ):
            assert "provider-key" not in shown
            assert len(shown) <= 43


def test_masks_that_make_a_text_short_leave_no_part_of_a_secret_at_its_end() -> None:
    """What was cut off before it was looked at is not shown, even if there were room for it."""
    secret = "s3cr-" + "x" * 95
    text = f"{secret} " * 300
    one = Redactor(most_bytes=10_000, known=[secret], is_on=False)
    for shown in (
        one.fields({"content": text}),
        one.body(text.encode()[:20_000], content_type="text/plain", size=len(text)),
    ):
        assert len(shown) < 5_000
        assert "s3cr-" not in shown


def test_streams_are_looked_at_event_by_event() -> None:
    """Their JSON is JSON like any other; what is not stays text."""
    body = b'data: {"delta": {"token": "hidden-value"}}\n\n: Bearer abcdef123456\n\ndata: [DONE]\n\n'
    shown = redactor().body(body, content_type="text/event-stream; charset=utf-8", size=len(body))

    assert "hidden-value" not in shown
    assert "abcdef" not in shown
    assert "[DONE]" in shown


def test_sounds_and_images_are_named_not_shown() -> None:
    """Nobody reads them in a log."""
    assert redactor().body(b"\0" * 9, content_type="audio/mpeg", size=9) == "<9 bytes of audio/mpeg>"


def test_a_huge_payload_costs_no_more_than_what_is_shown() -> None:
    """A prompt of a megabyte of images and thousands of messages does not hold up the node."""
    fields = {"messages": [{"role": "user", "content": "a" * 20_000}] * 2_000}
    began = time.thread_time()
    shown = redactor(most=1_000).fields(fields)

    assert len(shown) <= 1_003
    assert time.thread_time() - began < 0.2


def test_every_secret_of_a_configuration_is_known() -> None:
    """Keys, headers, tokens, wherever they stand."""
    config = MeshConfig.model_validate(
        {
            "providers": {
                "a": {
                    "connector": "openai-compatible.v1",
                    "base_url": "http://x/v1",
                    "api_key": "one",
                    "headers": {"h": "two"},
                }
            },
            "proxy": {"auth": {"tokens": ["three"]}},
            "observability": {"events": [{"secret": "four"}]},
        }
    )

    assert {"one", "two", "three", "four"} <= set(secrets_of(config))
