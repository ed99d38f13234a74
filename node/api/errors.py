"""Errors in the shape of the OpenAI API."""

from __future__ import annotations

import math

import orjson

from shared_state.errors import BudgetExceededError, ModelMeshError, RejectedRequestError

Headers = list[tuple[bytes, bytes]]


def error_body(error: ModelMeshError, request_id: str) -> bytes:
    """``{"error": {message, type, code, param, request_id}}``."""
    return orjson.dumps({"error": _told(error, request_id)})


def error_event(error: ModelMeshError, request_id: str, *, is_typed: bool) -> bytes:
    """The last event of a stream that breaks off; where events name their types it is of the type ``error``."""
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


def error_answer(error: ModelMeshError, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error; the provider's own body where the caller's mistake was found there."""
    status, body = error.http_status, b""
    if isinstance(error, RejectedRequestError):
        status, body = error.status, error.body
    headers: Headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None and (status in (409, 429, 503) or error.is_final):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after_s * 1000))))
    elif status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if status in (502, 504) or error.is_final or isinstance(error, BudgetExceededError):
        # The router has used the budget, or there is none left; an SDK's retries would only multiply the calls.
        headers.append((b"x-should-retry", b"false"))
    return status, headers, body or error_body(error, request_id)
