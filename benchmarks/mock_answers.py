"""Answers of the mock provider: from a call and a behaviour to the bytes on the wire. Pure."""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus

import orjson

from benchmarks.mock_behaviour import NO_FAULT, Behaviour, Fault
from benchmarks.mock_calls import CHAT, COMPLETIONS, EMBEDDINGS, FILLER, Call, Reply, reply_to

_GARBAGE_BODY = b'{"id": "chatcmpl-0", "choices": [{"index": 0, "mess\xff\x00\xfe'
_GARBAGE_EVENTS = b'data: {"id": "chatcmpl-0", "choi\n\ndata \xff\xfe: {{{\n\n'
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_DONE = b"data: [DONE]\n\n"
_JSON = "application/json"
_LAST_CHUNK = b"0\r\n\r\n"

Headers = Sequence[tuple[str, str]]


class Ending(Enum):
    """What becomes of the connection when everything was written."""

    KEEP = "keep"
    CLOSE = "close"
    STALL = "stall"
    RESET = "reset"


@dataclass(slots=True)
class Script:
    """An answer as it goes over the wire.

    Attributes:
        first: written after `delay_s`: the head, and for a stream its opening.
        pieces: written one by one, `gap_s` before each.
        chunks: pieces that carry content.
        is_whole: nothing is missing at the end.
    """

    status: int
    first: bytes
    pieces: list[bytes] = field(default_factory=list)
    delay_s: float = 0.0
    gap_s: float = 0.0
    ending: Ending = Ending.KEEP
    chunks: int = 0
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class _Surface:
    """The words of one text route: templates of an answer and of its events."""

    prefix: bytes
    kind: bytes
    event_kind: bytes
    choice: bytes
    opening: bytes
    delta: bytes
    finish: bytes


_SURFACES = {
    CHAT: _Surface(
        prefix=b"chatcmpl",
        kind=b"chat.completion",
        event_kind=b"chat.completion.chunk",
        choice=b'{"index":0,"message":{"role":"assistant","content":%b,"refusal":null},"logprobs":null,"finish_reason":"%b"}',
        opening=b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}',
        delta=b'{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":null}',
        finish=b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}',
    ),
    COMPLETIONS: _Surface(
        prefix=b"cmpl",
        kind=b"text_completion",
        event_kind=b"text_completion",
        choice=b'{"index":0,"text":%b,"logprobs":null,"finish_reason":"%b"}',
        opening=b"",
        delta=b'{"index":0,"text":%b,"logprobs":null,"finish_reason":null}',
        finish=b'{"index":0,"text":"","logprobs":null,"finish_reason":"%b"}',
    ),
}


def compose(call: Call, behaviour: Behaviour, *, name: str, n: int, headers: Headers = ()) -> Script:
    """The script of the answer to a call.

    Args:
        call: what was asked.
        behaviour: how to answer; chance was drawn already.
        name: identity of the mock, shown in ``system_fingerprint`` and in the text.
        n: number of the request, part of the answer's id.
        headers: further response headers.
    """
    if behaviour.fault.status >= 400:
        return compose_unary(b"", behaviour, headers=headers)
    if call.path == EMBEDDINGS:
        return compose_unary(_embeddings(call), behaviour, headers=headers)
    reply = reply_to(call, name=name, tokens=behaviour.pace.tokens)
    if call.is_stream:
        script = _stream(call, reply, behaviour.fault, name=name, n=n, headers=headers)
        return _directed(script, behaviour)
    return compose_unary(_completion(call, reply, name=name, n=n), behaviour, headers=headers)


def compose_unary(
    body: bytes, behaviour: Behaviour, *, headers: Headers = (), content_type: str = _JSON
) -> Script:
    """The script of an answer with a content-length; an error status replaces the body."""
    fault = behaviour.fault
    if fault.status >= 400:
        return _directed(error_script(fault, headers=headers), behaviour)
    return _directed(unary_script(body, fault, headers=headers, content_type=content_type), behaviour)


def _directed(script: Script, behaviour: Behaviour) -> Script:
    """The script at the behaviour's pace, and with what it orders for the connection."""
    script.delay_s, script.gap_s = behaviour.pace.head_s, behaviour.pace.token_s
    fault = behaviour.fault
    if fault is not NO_FAULT:
        if fault.closes_idle and script.ending is Ending.KEEP:
            script.ending = Ending.CLOSE
        if fault.reset_bytes is not None:
            _cut_wire(script, fault.reset_bytes)
    return script


def _cut_wire(script: Script, size_bytes: int) -> None:
    whole = len(script.first) + sum(map(len, script.pieces))
    script.first, left = script.first[:size_bytes], size_bytes - len(script.first)
    pieces = []
    for piece in script.pieces:
        if left <= 0:
            break
        pieces.append(piece[:left])
        left -= len(piece)
    script.pieces, script.chunks = pieces, min(script.chunks, len(pieces))
    script.ending = Ending.RESET
    script.is_whole = script.is_whole and size_bytes >= whole


def _head(status: int, content_type: str, headers: Headers) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", f"content-type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


_JSON_HEAD = _head(200, _JSON, ())
_EVENT_STREAM = "text/event-stream; charset=utf-8"
_EVENTS_HEAD = _head(200, _EVENT_STREAM, [("transfer-encoding", "chunked")]) + b"\r\n"


def _fault_headers(fault: Fault, headers: Headers) -> list[tuple[str, str]]:
    found = [*headers, *fault.headers]
    if fault.retry_after_date_s is not None:
        found.append(("retry-after", formatdate(time.time() + fault.retry_after_date_s, usegmt=True)))
    return found


def unary_script(
    body: bytes,
    fault: Fault = NO_FAULT,
    *,
    status: int = 200,
    headers: Headers = (),
    content_type: str = _JSON,
) -> Script:
    """An answer with a content-length."""
    if fault is NO_FAULT and not headers and status == 200 and content_type is _JSON:
        return Script(200, b"%bcontent-length: %d\r\n\r\n%b" % (_JSON_HEAD, len(body), body))
    body = _faulty_body(body, fault)
    head = _head(status, content_type, _fault_headers(fault, headers))
    head += b"content-length: %d\r\n\r\n" % len(body)
    sent, ending = body, Ending.KEEP
    if fault.stall_after is not None:
        sent, ending = body[: fault.stall_after], Ending.STALL
    elif fault.truncate_bytes is not None and fault.truncate_bytes < len(body):
        sent, ending = body[: fault.truncate_bytes], Ending.CLOSE
    return Script(
        status,
        head + sent,
        ending=ending,
        is_whole=ending is Ending.KEEP and not _is_broken(fault),
    )


def _faulty_body(body: bytes, fault: Fault) -> bytes:
    if fault.is_garbage:
        return _GARBAGE_BODY
    if fault.is_empty:
        return b""
    if fault.is_error_first or fault.error_after is not None:
        return error_body(500)
    return body


_ERROR_TYPES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    402: ("billing_error", "insufficient_credit"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "unprocessable_entity"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    529: ("overloaded_error", "overloaded"),
}


def error_body(status: int, *, code: str | None = None, message: str | None = None) -> bytes:
    """An error in OpenAI's shape."""
    if status not in _ERROR_TYPES:
        kind, default_code = (
            ("server_error", "server_error") if status >= 500 else ("invalid_request_error", None)
        )
    else:
        kind, default_code = _ERROR_TYPES[status]
    error = {
        "message": message or f"mock provider was ordered to answer {status}",
        "type": "insufficient_quota" if code == "insufficient_quota" else kind,
        "param": "messages" if code == "context_length_exceeded" else None,
        "code": code or default_code,
    }
    return orjson.dumps({"error": error})


_ERROR_EVENT = b"data: " + error_body(500) + b"\n\n"


def error_script(fault: Fault, *, headers: Headers = (), message: str | None = None) -> Script:
    """An answer with an error status; garbage, truncation and the like apply to it too."""
    body, content_type = error_body(fault.status, code=fault.code, message=message), "application/json"
    if fault.is_html:
        body, content_type = _HTML, "text/html"
    return unary_script(body, fault, status=fault.status, headers=headers, content_type=content_type)


@lru_cache(maxsize=256)
def _envelope_frame(path: str, model: str, name: str, *, is_event: bool) -> bytes:
    surface = _SURFACES[path]
    parts = (
        b'{"id":"%b-%b-' % (surface.prefix, orjson.dumps(name)[1:-1]),
        b'","object":"%b","created":' % (surface.event_kind if is_event else surface.kind),
        b',"model":%b,"system_fingerprint":%b,"choices":[' % (orjson.dumps(model), orjson.dumps(name)),
    )
    return b"%d".join(part.replace(b"%", b"%%") for part in parts)


def _envelope(call: Call, *, name: str, n: int, is_event: bool = False) -> bytes:
    return _envelope_frame(call.path, call.model, name, is_event=is_event) % (n, int(time.time()))


def _usage(call: Call, reply: Reply) -> bytes:
    prompt = call.prompt_tokens
    numbers = (prompt, reply.tokens, prompt + reply.tokens)
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % numbers


def _completion(call: Call, reply: Reply, *, name: str, n: int) -> bytes:
    choice = _SURFACES[call.path].choice % (orjson.dumps(reply.text), reply.finish_reason.encode())
    return b'%b%b],"usage":%b}' % (_envelope(call, name=name, n=n), choice, _usage(call, reply))


@dataclass(slots=True)
class _Events:
    """The payload of a stream: what comes with the head, one event per content chunk, and the end."""

    opening: bytes
    pieces: list[bytes]
    tail: bytes

    def size_bytes(self) -> int:
        return len(self.opening) + sum(map(len, self.pieces)) + len(self.tail)


def _stream(call: Call, reply: Reply, fault: Fault, *, name: str, n: int, headers: Headers) -> Script:
    events = _events(call, reply, fault, name=name, n=n)
    script = Script(200, _EVENTS_HEAD)
    if fault is not NO_FAULT or headers:
        extra = [("transfer-encoding", "chunked"), *_fault_headers(fault, headers)]
        script.first = _head(200, _EVENT_STREAM, extra) + b"\r\n"
        _spoil(events, fault)
    script.chunks = len(events.pieces)
    if fault.stall_after is not None:
        script.ending = Ending.STALL
    elif fault.truncate_bytes is not None and fault.truncate_bytes < events.size_bytes():
        script.ending = Ending.CLOSE
        _cut_payload(events, fault.truncate_bytes)
        script.chunks = min(script.chunks, len(events.pieces))
    script.is_whole = script.ending is Ending.KEEP and fault.has_done and not _is_broken(fault)
    return _framed(script, events)


def _is_broken(fault: Fault) -> bool:
    return fault.is_garbage or fault.is_empty or fault.is_error_first or fault.error_after is not None


def _events(call: Call, reply: Reply, fault: Fault, *, name: str, n: int) -> _Events:
    surface = _SURFACES[call.path]
    envelope = b"data: " + _envelope(call, name=name, n=n, is_event=True)
    close = b'],"usage":null}\n\n' if call.has_usage else b"]}\n\n"
    filler = envelope + surface.delta % orjson.dumps(FILLER) + close
    pieces = [
        filler if text is FILLER else envelope + surface.delta % orjson.dumps(text) + close
        for text in reply.pieces
    ]
    tail = b""
    if fault.has_finish:
        tail = envelope + surface.finish % reply.finish_reason.encode() + close
        if call.has_usage:
            tail += b'%b],"usage":%b}\n\n' % (envelope, _usage(call, reply))
    opening = envelope + surface.opening + close if surface.opening else b""
    return _Events(opening, pieces, tail + _DONE if fault.has_done else tail)


def _spoil(events: _Events, fault: Fault) -> None:
    if fault.is_empty:
        events.opening, events.pieces, events.tail = b"", [], b""
    elif fault.is_garbage:
        events.opening, events.pieces, events.tail = _GARBAGE_EVENTS, [], _DONE
    elif fault.is_error_first:
        events.opening, events.pieces, events.tail = b"", [], _ERROR_EVENT
    elif fault.error_after is not None:
        events.pieces, events.tail = events.pieces[: fault.error_after], _ERROR_EVENT
    elif fault.stall_after is not None:
        events.pieces, events.tail = events.pieces[: fault.stall_after], b""


def _cut_payload(events: _Events, size_bytes: int) -> None:
    left = size_bytes - len(events.opening)
    kept: list[bytes] = []
    for piece in [*events.pieces, events.tail]:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    events.opening, events.pieces, events.tail = events.opening[:size_bytes], kept, b""


def _framed(script: Script, events: _Events) -> Script:
    """Payload to HTTP chunks; the opening travels with the head, the tail with the last piece."""
    payloads = {events.opening, events.tail, *events.pieces} - {b""}
    frames = {payload: b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads} | {b"": b""}
    end = frames[events.tail] + (_LAST_CHUNK if script.ending is Ending.KEEP else b"")
    script.first += frames[events.opening]
    script.pieces = [frames[piece] for piece in events.pieces]
    if script.pieces:
        script.pieces[-1] += end
    else:
        script.first += end
    return script


def _embeddings(call: Call) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, call)}
        for index, text in enumerate(call.texts)
    ]
    usage = {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": call.model, "usage": usage})


def _vector(text: str, call: Call) -> list[float] | str:
    digest = hashlib.shake_256(text.encode()).digest(call.dimensions)
    numbers = [(byte - 127.5) / 127.5 for byte in digest]
    return (
        base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if call.is_base64 else numbers
    )


def model_list(models: Sequence[str], name: str, *, only: str = "") -> bytes:
    """The body of ``GET /v1/models``, or of ``GET /v1/models/{only}``."""
    data = [{"id": model, "object": "model", "created": 1_700_000_000, "owned_by": name} for model in models]
    if only:
        return orjson.dumps(next(model for model in data if model["id"] == only))
    return orjson.dumps({"object": "list", "data": data})
