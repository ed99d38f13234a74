"""What providers' answers mean: by status, type, code and retry-after, vendor by vendor."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.providers.classify import classify_event, classify_response
from shared_state.errors import (
    AuthenticationError,
    Blame,
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from tests.unit.node.scripted import HTML_PAGE


def openai(message: str = "m", **fields: Any) -> bytes:
    """An error body in the OpenAI shape."""
    return orjson.dumps({"error": {"message": message, "param": None, **fields}})


CASES: list[tuple[str, int, bytes, type[ProviderError]]] = [
    (
        "openai bad key",
        401,
        openai(type="invalid_request_error", code="invalid_api_key"),
        AuthenticationError,
    ),
    (
        "openai country",
        403,
        openai(type="request_forbidden", code="unsupported_country"),
        AuthenticationError,
    ),
    ("openai pace", 429, openai(type="tokens", code="rate_limit_exceeded"), RateLimitError),
    ("openai money", 429, openai(type="insufficient_quota", code="insufficient_quota"), QuotaExhaustedError),
    ("openai money by type", 429, openai(type="insufficient_quota", code=None), QuotaExhaustedError),
    ("openai hard limit", 429, openai(code="billing_hard_limit_reached"), QuotaExhaustedError),
    ("openai credit", 429, openai(code="credit_balance_exhausted"), QuotaExhaustedError),
    ("openai spend limit", 429, openai(code="project_spend_limit_exceeded"), QuotaExhaustedError),
    ("openai usage limit", 429, openai(code="organization_usage_limit_exceeded"), QuotaExhaustedError),
    ("openai money as 403", 403, openai(code="insufficient_quota"), QuotaExhaustedError),
    (
        "openai no model",
        404,
        openai(type="invalid_request_error", code="model_not_found"),
        ProviderUnavailableError,
    ),
    ("openai too long", 400, openai(code="context_length_exceeded"), RejectedRequestError),
    ("openai bad value", 400, openai(type="invalid_request_error"), RejectedRequestError),
    ("openai unprocessable", 422, openai(), RejectedRequestError),
    ("openai too large", 413, HTML_PAGE, RejectedRequestError),
    ("openai conflict", 409, openai(), ProviderUnavailableError),
    ("openai timeout", 408, openai(), ProviderUnavailableError),
    ("openai server", 500, openai(type="server_error"), ProviderUnavailableError),
    ("openai engine", 503, openai(message="overloaded"), ProviderUnavailableError),
    ("anthropic overloaded", 529, openai(type="overloaded_error"), ProviderUnavailableError),
    ("anthropic pace", 429, openai(type="rate_limit_error"), RateLimitError),
    (
        "anthropic spend limit",
        429,
        openai(type="rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        QuotaExhaustedError,
    ),
    ("anthropic billing", 402, openai(type="billing_error"), QuotaExhaustedError),
    ("anthropic no model", 404, openai(type="not_found_error"), ProviderUnavailableError),
    ("groq flex capacity", 498, openai(code="capacity_exceeded"), ProviderUnavailableError),
    ("groq cancelled", 499, openai(), ProviderUnavailableError),
    ("groq pace", 429, openai(type="requests", code="rate_limit_exceeded"), RateLimitError),
    ("azure no deployment", 404, openai(code="DeploymentNotFound"), ProviderUnavailableError),
    ("azure content filter", 400, openai(code="content_filter", innererror={}), RejectedRequestError),
    ("azure pace", 429, openai(code="429"), RateLimitError),
    ("azure key", 401, b'{"statusCode": 401, "message": "Access denied"}', AuthenticationError),
    (
        "mistral flat",
        422,
        b'{"object": "error", "message": "bad", "type": "x", "code": 3}',
        RejectedRequestError,
    ),
    ("mistral key", 401, b'{"message": "Unauthorized", "request_id": "x"}', AuthenticationError),
    ("mistral pace", 429, b'{"message": "Requests rate limit exceeded"}', RateLimitError),
    ("mistral capacity", 429, b'{"type": "service_tier_capacity_exceeded", "code": "3505"}', RateLimitError),
    ("deepseek balance", 402, openai(message="Insufficient Balance"), QuotaExhaustedError),
    ("ollama no model", 404, openai(type="not_found_error", message="try pulling"), ProviderUnavailableError),
    ("vllm no model", 404, openai(type="NotFoundError", code=404), ProviderUnavailableError),
    ("no such path", 404, HTML_PAGE, ProviderUnavailableError),
    ("something else is not found", 404, openai(code="file_not_found"), RejectedRequestError),
    ("proxy", 502, HTML_PAGE, ProviderUnavailableError),
    ("cdn", 520, HTML_PAGE, ProviderUnavailableError),
    ("cdn frozen", 530, HTML_PAGE, ProviderUnavailableError),
    ("too early", 425, b"", ProviderUnavailableError),
    ("gone", 410, b"", RejectedRequestError),
    ("error as text", 400, b'{"error": "no such thing"}', RejectedRequestError),
    ("redirect", 302, HTML_PAGE, ProviderProtocolError),
    ("no content", 204, b"", ProviderProtocolError),
]


@pytest.mark.parametrize(("status", "body", "kind"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_vendors_answers_mean_what_they_mean(
    status: int, body: bytes, kind: type[ProviderError]
) -> None:
    """One row per answer that was seen in the wild."""
    error = classify_response(status, {}, body, provider="alpha")

    assert type(error) is kind
    assert error.status == status
    assert error.sent
    assert "alpha" in error.message


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_callers_mistake_blames_the_caller_and_keeps_its_body(status: int) -> None:
    """Nobody else would judge differently, so it is not tried elsewhere."""
    body = openai(message="bad value", code="invalid_value")
    error = classify_response(status, {}, body, provider="alpha")

    assert error.blame is Blame.CALLER
    assert not error.retryable
    assert error.body == body
    assert error.code == "invalid_value"


@pytest.mark.parametrize("body", [HTML_PAGE, b"", b"[1]", b"\xff\xfe", b'{"error": '])
def test_a_body_that_is_no_json_object_is_never_passed_on(body: bytes) -> None:
    """Somebody's error page is not an answer of an API."""
    error = classify_response(400, {}, body, provider="alpha")

    assert error.body == b""
    assert error.message == "alpha answered 400"


@pytest.mark.parametrize(
    ("body", "headers", "wait_s"),
    [
        (openai(code="rate_limit_exceeded"), {"retry-after": "7"}, 7.0),
        (openai(code="rate_limit_exceeded"), {"retry-after-ms": "250"}, 0.25),
        (openai(code="rate_limit_exceeded"), {}, None),
        (openai(code="rate_limit_exceeded"), {"retry-after": "-1"}, None),
        (openai(code="insufficient_quota"), {}, 3600.0),
        (openai(code="insufficient_quota"), {"retry-after": "60"}, 60.0),
        (openai(code="insufficient_quota"), {"retry-after": "0"}, 0.0),
    ],
)
def test_the_wait_is_the_providers_word_or_ours(
    body: bytes, headers: dict[str, str], wait_s: float | None
) -> None:
    """Pace without a word has no wait; spent money has an hour."""
    assert classify_response(429, headers, body, provider="alpha").retry_after_s == wait_s


def test_a_server_error_may_ask_to_wait() -> None:
    """A 503 with retry-after keeps it."""
    assert classify_response(503, {"retry-after": "3"}, b"", provider="alpha").retry_after_s == 3.0


def test_a_refused_key_is_not_told() -> None:
    """Providers quote the key in their message; the error must not."""
    body = openai(message="Incorrect API key provided: sk-abc123", code="invalid_api_key")

    assert "sk-abc123" not in str(classify_response(401, {}, body, provider="alpha"))


def test_messages_are_bounded_and_printable() -> None:
    """What a provider says ends in logs and answers."""
    body = openai(message="line\r\nset-cookie: x\x00" + "y" * 10_000)
    message = classify_response(500, {}, body, provider="alpha").message

    assert message.isprintable()
    assert len(message) < 400


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "details", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(
    status=st.integers(100, 999),
    body=st.one_of(st.binary(max_size=50), _JSON.map(orjson.dumps)),
    retry_after=st.none() | st.text(max_size=20),
)
def test_any_answer_becomes_one_of_our_errors(status: int, body: bytes, retry_after: str | None) -> None:
    """Classifying never fails, whatever the body."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    error = classify_response(status, headers, body, provider="alpha")

    assert isinstance(error, ProviderError)
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= 24 * 3600


@given(_JSON)
def test_any_error_event_becomes_one_of_our_errors(error: Any) -> None:
    """The same inside a stream."""
    assert isinstance(classify_event(error, provider="alpha"), ProviderError)
