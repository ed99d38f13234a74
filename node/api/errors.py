"""Errors in the shape of the API that was called."""

from __future__ import annotations

import math
from typing import Any, Final

import orjson

from node.call import Voice
from node.providers.complaint import read_complaint
from shared_state.errors import (
    BudgetExceededError,
    ModelMeshError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RejectedRequestError,
)

Headers = list[tuple[bytes, bytes]]

#: Anthropic's types by status; others are the caller's mistake or ours.
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ModelMeshError, request_id: str, voice: Voice = Voice.OPENAI) -> bytes:
    """``{"error": {message, type, code, param, request_id}}``, or ``{"type": "error", "error": {type, message, details}, request_id}``."""
    if voice is Voice.ANTHROPIC:
        return orjson.dumps(_told_to_claude(error, request_id, error.http_status))
    return orjson.dumps({"error": _told(error, request_id)})


def error_event(
    error: ModelMeshError, request_id: str, *, is_typed: bool, voice: Voice = Voice.OPENAI
) -> bytes:
    """The last event of a stream that breaks off; where events name their types it is of the type ``error``."""
    if voice is Voice.ANTHROPIC:
        return b"event: error\ndata: " + error_body(error, request_id, voice) + b"\n\n"
    if not is_typed:
        return b"data: " + error_body(error, request_id) + b"\n\n"
    told = _told(error, request_id)
    flat = {"type": "error", **{name: told[name] for name in ("code", "message", "param")}, "error": told}
    return b"event: error\ndata: " + orjson.dumps(flat) + b"\n\n"


def _told(error: ModelMeshError, request_id: str) -> dict[str, str | None]:
    return {
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
    }


def _told_to_claude(error: ModelMeshError, request_id: str, status: int) -> dict[str, Any]:
    details = {"error_code": error.code, "param": error.param}
    told = {"type": _claudes_type(error, status), "message": error.message, "details": details}
    return {"type": "error", "error": told, "request_id": request_id}


def _claudes_type(error: ModelMeshError, status: int) -> str:
    if isinstance(error, BudgetExceededError):
        return "billing_error"
    if isinstance(error, ProviderUnavailableError | RateLimitError):
        return "overloaded_error"  # a provider's limit is none of the caller's
    if isinstance(error, ProviderTimeoutError):
        return "timeout_error"
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def error_answer(
    error: ModelMeshError, request_id: str, voice: Voice = Voice.OPENAI
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error; the provider's own body where the caller's mistake was found there."""
    status, body = error.http_status, b""
    if isinstance(error, RejectedRequestError):
        status, body = error.status, _passed_on(error, request_id, voice)
    headers: Headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None and (status in (409, 429, 503) or error.is_final):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after_s * 1000))))
    elif status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if status in (502, 504) or error.is_final or isinstance(error, BudgetExceededError):
        # The router has used the budget, or there is none left; an SDK's retries would only multiply the calls.
        headers.append((b"x-should-retry", b"false"))
    return status, headers, body or error_body(error, request_id, voice)


def _passed_on(error: RejectedRequestError, request_id: str, voice: Voice) -> bytes:
    """The provider's own words: as they came if it speaks as the caller does, else put into the caller's shape."""
    if _is_claudes(error.body) == (voice is Voice.ANTHROPIC) and error.body:
        return error.body
    said = read_complaint(error.body).message or error.message
    if voice is Voice.ANTHROPIC:
        whole = _told_to_claude(error, request_id, error.status)
        whole["error"]["message"] = said
        return orjson.dumps(whole)
    return orjson.dumps({"error": {**_told(error, request_id), "message": said}}) if error.body else b""


def _is_claudes(body: bytes) -> bool:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return (
        isinstance(fields, dict) and fields.get("type") == "error" and isinstance(fields.get("error"), dict)
    )
