"""Reading and understanding a request's body, within bounds."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import orjson
from starlette.types import Message, Receive, Scope

from shared_state.errors import ClientDisconnectedError, PayloadTooLargeError, RequestError

#: Deepest nesting that is accepted. Parsers, ours and the providers', recurse.
MAX_DEPTH: Final = 128
#: A slow body holds a connection for at most this long.
_BODY_S: Final = 60.0

#: Where a scope keeps the index of its headers.
_INDEX: Final = "modelmesh.headers"

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_INNERMOST = re.compile(rb"\[\]|\{\}")
_STRING = re.compile(rb'"[^"]*"')


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        PayloadTooLargeError: it is, or says it is, larger than the limit.
        ClientDisconnectedError: the caller left before its end.
    """
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit_bytes:
        raise PayloadTooLargeError(f"the body has {int(announced)} bytes; at most {limit_bytes} are accepted")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        _check_size(len(body), limit_bytes)
        return body
    try:
        async with asyncio.timeout(_BODY_S):
            return await _read_parts(message, receive, limit_bytes)
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {_BODY_S:g} seconds", code="request_timeout"
        ) from None


async def _read_parts(message: Message, receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the client left while it sent its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        _check_size(size, limit_bytes)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestError: it is empty, not JSON, not an object, or nested too deeply.
    """
    if not body.strip():
        raise RequestError("the body is empty; a JSON object is expected", code="invalid_json")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper(body, MAX_DEPTH):
        raise RequestError(f"the body is nested deeper than {MAX_DEPTH} levels", code="invalid_json")
    return fields


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each (lower-case) name; indexed once a request."""
    known: dict[bytes, bytes] | None = scope.get(_INDEX)
    if known is None:
        known = scope[_INDEX] = dict(reversed(scope["headers"]))
    return known


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    known: dict[bytes, bytes] | None = scope.get(_INDEX)
    return (headers_of(scope) if known is None else known).get(name)


def _check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise PayloadTooLargeError(f"the body is larger than {limit_bytes} bytes")


def _is_deeper(body: bytes, depth: int) -> bool:
    """Whether valid JSON is nested deeper than that; works on its brackets alone, at the speed of C."""
    brackets = _STRING.sub(
        b"", body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
    )
    for _ in range(depth):
        if not brackets:
            return False
        brackets = _INNERMOST.sub(b"", brackets)
    return bool(brackets)
