"""Requests as the mock provider reads them, and the texts it answers with.

An answer's text is ``<name>: <marker> tok tok ...``: the marker is the last text of the request (its first 200
characters), the fillers bring the text to the ordered number of chunks. Tokens are ceil(UTF-8 bytes / 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
FILLER = " tok"
_MARKER_CHARS = 200
_MAX_DIMENSIONS = 4096


class CallError(ValueError):
    """The request cannot be understood; the mock answers 400."""


@dataclass(slots=True)
class Call:
    """What a request asks for."""

    path: str
    model: str
    texts: list[str]
    is_stream: bool = False
    has_usage: bool = False
    max_tokens: int | None = None
    dimensions: int = 8
    is_base64: bool = False

    @property
    def prompt_tokens(self) -> int:
        return count_tokens("".join(self.texts))


def read_call(path: str, body: bytes) -> Call:
    """What the body asks for.

    Raises:
        CallError: it is no JSON object, or names no model.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise CallError("the body must be an object with a string 'model'")
    call = Call(path, document["model"], _texts(path, document))
    if path == EMBEDDINGS:
        call.dimensions = min(_positive(document, "dimensions") or call.dimensions, _MAX_DIMENSIONS)
        call.is_base64 = document.get("encoding_format") == "base64"
    else:
        call.is_stream = document.get("stream") is True
        call.has_usage = bool((document.get("stream_options") or {}).get("include_usage"))
        call.max_tokens = _positive(document, "max_completion_tokens") or _positive(document, "max_tokens")
    return call


def _positive(document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _texts(path: str, document: dict[str, Any]) -> list[str]:
    if path == CHAT:
        return [_message_text(message) for message in document.get("messages") or ()]
    source = document.get("input" if path == EMBEDDINGS else "prompt") or ""
    if isinstance(source, str):
        return [source]
    if source and isinstance(source[0], int):
        source = [source]
    return [item if isinstance(item, str) else repr(item) for item in source]


def _message_text(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))


def count_tokens(text: str) -> int:
    """The mock's tokenizer: ceil(UTF-8 bytes / 4)."""
    return -(-len(text.encode()) // 4)


@dataclass(frozen=True, slots=True)
class Reply:
    """The text of an answer; `pieces` are its content chunks."""

    pieces: tuple[str, ...]
    text: str
    tokens: int
    finish_reason: str


def reply_to(call: Call, *, name: str, tokens: int) -> Reply:
    """The answer's text in `tokens` chunks; never more than the `max_tokens` of the call."""
    marker = call.texts[-1][:_MARKER_CHARS] if call.texts else ""
    return _reply(name, marker, tokens, call.max_tokens)


@lru_cache(maxsize=1024)
def _reply(name: str, marker: str, tokens: int, max_tokens: int | None) -> Reply:
    pieces = (f"{name}: {marker}",) if tokens == 1 else (f"{name}: ", marker, *([FILLER] * (tokens - 2)))
    text = "".join(pieces)
    if max_tokens is not None and count_tokens(text) > max_tokens:
        pieces = _clip(pieces, max_tokens * 4)
        return Reply(pieces, "".join(pieces), max_tokens, "length")
    return Reply(pieces, text, count_tokens(text), "stop")


def _clip(pieces: tuple[str, ...], size_bytes: int) -> tuple[str, ...]:
    kept: list[str] = []
    for piece in pieces:
        raw = piece.encode()[:size_bytes]
        kept.append(raw.decode(errors="ignore"))
        size_bytes -= len(raw)
        if size_bytes <= 0:
            break
    return tuple(kept)
