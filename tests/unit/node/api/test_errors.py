"""Errors in the OpenAI shape, with the headers that SDKs obey."""

from __future__ import annotations

import orjson
import pytest

from node.api.errors import error_answer, error_body, error_event
from node.call import Voice
from shared_state.errors import (
    AllProvidersExhaustedError,
    AuthenticationRequiredError,
    BudgetExceededError,
    DeadlineExceededError,
    IdempotencyConflictError,
    LimitReachedError,
    MethodNotAllowedError,
    ModelMeshError,
    ModelNotAllowedError,
    ModelNotFoundError,
    NoActiveModelError,
    PayloadTooLargeError,
    ProviderProtocolError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RejectedRequestError,
    RequestError,
    RouteNotFoundError,
    StateUnavailableError,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (RequestError("m"), 400, "invalid_request_error", "invalid_request"),
        (RequestError("m", code="invalid_json"), 400, "invalid_request_error", "invalid_json"),
        (AuthenticationRequiredError("m"), 401, "authentication_error", "invalid_api_key"),
        (ModelNotFoundError("m"), 404, "invalid_request_error", "model_not_found"),
        (RouteNotFoundError("m"), 404, "invalid_request_error", "not_found"),
        (MethodNotAllowedError("m"), 405, "invalid_request_error", "method_not_allowed"),
        (PayloadTooLargeError("m"), 413, "invalid_request_error", "payload_too_large"),
        (LimitReachedError("m"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (ModelMeshError("m"), 500, "server_error", "internal_error"),
        (AllProvidersExhaustedError("m"), 502, "server_error", "all_providers_exhausted"),
        (NoActiveModelError("m"), 503, "server_error", "no_active_model"),
        (StateUnavailableError("m"), 503, "server_error", "state_unavailable"),
        (DeadlineExceededError("m"), 504, "server_error", "deadline_exceeded"),
    ],
)
def test_each_error_has_its_status_type_and_code(
    error: ModelMeshError, status: int, kind: str, code: str
) -> None:
    """One body for all of them, with the request's id."""
    found, headers, body = error_answer(error, "req-1")

    assert found == status
    assert orjson.loads(body) == {
        "error": {"message": "m", "type": kind, "code": code, "param": None, "request_id": "req-1"}
    }
    assert (b"content-type", b"application/json") in headers


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (LimitReachedError("m", retry_after_s=2.5), {b"retry-after": b"3", b"retry-after-ms": b"2500"}),
        (LimitReachedError("m", retry_after_s=0.0), {b"retry-after": b"1", b"retry-after-ms": b"1"}),
        (LimitReachedError("m"), {b"retry-after": b"1"}),
        (NoActiveModelError("m", retry_after_s=60.0), {b"retry-after": b"60", b"retry-after-ms": b"60000"}),
        (StateUnavailableError("m"), {b"retry-after": b"1"}),
        (AllProvidersExhaustedError("m", retry_after_s=5.0), {b"x-should-retry": b"false"}),
        (DeadlineExceededError("m"), {b"x-should-retry": b"false"}),
        (RequestError("m"), {}),
    ],
)
def test_waits_and_retries_are_told(error: ModelMeshError, headers: dict[bytes, bytes]) -> None:
    """429 and 503 always say when; after the router's own budget an SDK must not multiply it."""
    _, found, _ = error_answer(error, "req-1")

    assert dict(found) == {b"content-type": b"application/json", **headers}


def test_the_providers_own_body_is_passed_on() -> None:
    """For a caller's mistake, with the provider's status."""
    error = RejectedRequestError("alpha answered 422: bad", status=422, body=b'{"error": {"x": 1}}')

    status, _, body = error_answer(error, "req-1")

    assert (status, body) == (422, b'{"error": {"x": 1}}')


def test_a_mistake_without_a_body_gets_ours() -> None:
    """The provider's page was no JSON."""
    status, _, body = error_answer(RejectedRequestError("alpha answered 413", status=413), "req-1")

    assert status == 413
    assert orjson.loads(body)["error"]["message"] == "alpha answered 413"


def test_a_parameter_is_named() -> None:
    """So that a caller finds it."""
    assert orjson.loads(error_body(RequestError("m", param="stream"), "r"))["error"]["param"] == "stream"


# -- in Anthropic's words

CLAUDES = b'{"type":"error","error":{"type":"invalid_request_error","message":"too hot"}}'


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("m"), 400, "invalid_request_error"),
        (AuthenticationRequiredError("m"), 401, "authentication_error"),
        (ModelNotAllowedError("m"), 403, "permission_error"),
        (ModelNotFoundError("m"), 404, "not_found_error"),
        (MethodNotAllowedError("m"), 405, "invalid_request_error"),
        (IdempotencyConflictError("m"), 409, "conflict_error"),
        (PayloadTooLargeError("m"), 413, "request_too_large"),
        (LimitReachedError("m"), 429, "rate_limit_error"),
        (BudgetExceededError("m", window="usd_per_day"), 429, "billing_error"),
        (ModelMeshError("m"), 500, "api_error"),
        (AllProvidersExhaustedError("m"), 502, "api_error"),
        (NoActiveModelError("m"), 503, "overloaded_error"),
        (StateUnavailableError("m"), 503, "overloaded_error"),
        (DeadlineExceededError("m"), 504, "timeout_error"),
    ],
)
def test_each_error_has_one_of_anthropics_types(error: ModelMeshError, status: int, kind: str) -> None:
    """The status is the same for everybody; what only we know stands among the details."""
    found, _, body = error_answer(error, "req-1", Voice.ANTHROPIC)

    assert found == status
    assert orjson.loads(body) == {
        "type": "error",
        "error": {"type": kind, "message": "m", "details": {"error_code": error.code, "param": None}},
        "request_id": "req-1",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ProviderUnavailableError("m", status=529), "overloaded_error"),
        (RateLimitError("m", status=429), "overloaded_error"),
        (ProviderTimeoutError("m"), "timeout_error"),
        (ProviderProtocolError("m"), "api_error"),
    ],
)
def test_a_stream_that_breaks_off_says_so_in_anthropics_words(error: ModelMeshError, kind: str) -> None:
    """As an event of its own; a limit of the provider's is none of the caller's."""
    event = error_event(error, "req-1", is_typed=True, voice=Voice.ANTHROPIC)
    name, data = event.rstrip().split(b"\n")

    assert name == b"event: error"
    told = orjson.loads(data.removeprefix(b"data: "))
    assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", kind, "req-1")


@pytest.mark.parametrize(
    ("said", "voice", "body"),
    [
        (CLAUDES, Voice.ANTHROPIC, CLAUDES),
        (b'{"error":{"message":"too hot"}}', Voice.OPENAI, b'{"error":{"message":"too hot"}}'),
        (b'{"error":{"message":"too hot"}}', Voice.ANTHROPIC, None),
        (CLAUDES, Voice.OPENAI, None),
    ],
)
def test_what_a_provider_has_said_is_put_into_the_callers_shape(
    said: bytes, voice: Voice, body: bytes | None
) -> None:
    """Where it is not in that shape already."""
    status, _, given = error_answer(
        RejectedRequestError("alpha: too hot", status=422, body=said), "req-1", voice
    )

    assert status == 422
    if body is not None:
        assert given == body
        return
    told = orjson.loads(given)
    assert (told["error"]["message"], told["error"]["type"]) == ("too hot", "invalid_request_error")
    assert ("type" in told) == (voice is Voice.ANTHROPIC)
