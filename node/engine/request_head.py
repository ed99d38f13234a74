"""From a parsed request head to an ASGI scope, or to a refusal. Pure; the parser has checked the syntax.

Here is decided what the parser leaves open and a request smuggler would use: versions, framing, the target's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from node.engine.answers import Refusal

Headers = list[tuple[bytes, bytes]]

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_JUDGED = frozenset({b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"})


class RefusedError(Exception):
    """The request is answered by the server, and its connection closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, message)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a request's connection is to be treated.

    Attributes:
        keep_alive: the client would use the connection again.
        expects_continue: the client waits for ``100 Continue`` before it sends the body.
        has_body: a body follows.
    """

    keep_alive: bool
    expects_continue: bool
    has_body: bool


_PLAIN = Framing(keep_alive=True, expects_continue=False, has_body=False)
_PLAIN_BODY = Framing(keep_alive=True, expects_continue=False, has_body=True)


def judge_headers(headers: Headers, version: str) -> Framing:
    """The framing that the headers ask for.

    Raises:
        RefusedError: the message could be understood in two ways.
    """
    names = [name for name, _ in headers if name in _JUDGED]
    if names == [b"host"] and version == "1.1":  # nearly every GET
        return _PLAIN
    if version == "1.1" and names.count(b"host") == 1 and len(names) == 2 and b"content-length" in names:
        return _PLAIN_BODY  # nearly every POST; the parser has checked the number
    return _judge(headers, names, version)


def _judge(headers: Headers, names: list[bytes], version: str) -> Framing:
    if version not in {"1.0", "1.1"}:
        raise RefusedError(505, "HTTP/1.1 is spoken here.")
    if (hosts := names.count(b"host")) > 1 or (hosts == 0 and version == "1.1"):
        raise RefusedError(400, "A request has exactly one Host header.")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    lengths = names.count(b"content-length")
    if codings and (codings != [b"chunked"] or lengths or version == "1.0"):
        raise RefusedError(400, "The only framings known are Content-Length and, with HTTP/1.1, chunked.")
    if lengths > 1:
        raise RefusedError(400, "Content-Length is given more than once.")
    tokens = _tokens(value for name, value in headers if name == b"connection")
    expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
    return Framing(
        keep_alive=b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens),
        expects_continue=expects and version == "1.1",
        has_body=bool(codings or lengths),
    )


def _tokens(values: Any) -> set[bytes]:
    """The lower-case tokens of comma-separated header values."""
    return {token.strip().lower() for value in values for token in value.split(b",")}


def build_scope(
    method: bytes,
    target: bytes,
    *,
    version: str,
    headers: Headers,
    client: tuple[str, int] | None,
    server: tuple[str, int] | None,
    state: dict[str, Any],
) -> dict[str, Any]:
    """The ASGI scope of a request."""
    raw_path, _, query_string = target.partition(b"?")
    if raw_path[:1] != b"/" and raw_path != b"*":
        raw_path = _path_of_absolute(raw_path)
    path = raw_path.decode("latin-1")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "method": method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query_string,
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": server,
        "state": state.copy(),
    }


def _path_of_absolute(target: bytes) -> bytes:
    """The path of ``http://host/path``, which proxies send; the host in it is not used for anything."""
    _, scheme_mark, rest = target.partition(b"://")
    if not scheme_mark:
        raise RefusedError(400, "The request target is neither a path nor an absolute URL.")
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"
