"""Answers that the server gives by itself, when no application can: OpenAI's error shape, connection closed."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from node.engine.response_head import encode_head

_CODES = {
    400: "bad_request",
    408: "request_timeout",
    431: "headers_too_large",
    500: "internal_error",
    503: "shutting_down",
    505: "http_version_not_supported",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not handed to the application."""

    status: int
    message: str


APP_FAILED = Refusal(500, "The server had an error while processing the request.")
APP_CANCELLED = Refusal(503, "The server is shutting down; please try again.")


def refusal_body(refusal: Refusal) -> bytes:
    """The JSON body of a refusal."""
    error = {
        "message": refusal.message,
        "type": "server_error" if refusal.status >= 500 else "invalid_request_error",
        "code": _CODES.get(refusal.status, "bad_request"),
        "param": None,
        "request_id": None,
    }
    return orjson.dumps({"error": error})


def refusal_headers(refusal: Refusal, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that go with it; every 503 says when to come back."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if refusal.status == 503:
        headers.append((b"retry-after", b"1"))
    return headers


def refusal_response(refusal: Refusal, *, head_only: bool = False) -> bytes:
    """The whole response as it goes over the wire; the answer to HEAD has no body."""
    body = refusal_body(refusal)
    head = encode_head(refusal.status, refusal_headers(refusal, body))
    return b"%bconnection: close\r\n\r\n%b" % (head.lines, b"" if head_only else body)
