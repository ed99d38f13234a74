"""From ``httpx.Request`` to the bytes of an HTTP/1.1 request; whatever could split or smuggle is refused here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import httpx

from node.upstream.faults import fault

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BODY_EXPECTED = frozenset({b"POST", b"PUT", b"PATCH"})
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
# One copy into a single segment is cheaper than a second write, until the copy itself would be felt.
_JOIN_MAX_BYTES = 256 * 1024


RawHeaders = list[tuple[bytes, bytes]]


class Origin(NamedTuple):
    """Where connections go: what one pool serves."""

    scheme: str
    host: str
    port: int

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Timeouts(NamedTuple):
    """httpx's four clocks in seconds; None waits for ever."""

    connect_s: float | None
    pool_s: float | None
    read_s: float | None
    write_s: float | None

    @classmethod
    def of(cls, given: Mapping[str, float | None]) -> Timeouts:
        return cls(given.get("connect"), given.get("pool"), given.get("read"), given.get("write"))


class Call(NamedTuple):
    """A request that is ready to be written."""

    parts: tuple[bytes, ...]
    is_head: bool
    timeouts: Timeouts
    on_send: Callable[[], None] | None = None


def origin_of(url: httpx.URL) -> Origin:
    """Read the origin of an absolute http(s) URL.

    Raises:
        httpx.UnsupportedProtocol: the scheme is neither http nor https, or the host is missing.
    """
    default_port = _DEFAULT_PORTS.get(url.scheme)
    if default_port is None or not url.host:
        message = f"{url.scheme or 'no scheme'}: an absolute http:// or https:// URL is needed"
        raise fault(httpx.UnsupportedProtocol, message, request_sent=False)
    return Origin(url.scheme, url.raw_host.decode("ascii"), url.port or default_port)


async def prepare_call(request: httpx.Request) -> Call:
    """Serialise a request, reading its body first.

    Raises:
        httpx.LocalProtocolError: a name, a value or the framing could not be sent safely.
    """
    body = await _read_body(request)
    method = request.method.encode("ascii", "replace")
    head = _encode_head(method, request, body_bytes=len(body))
    parts = (head + body,) if len(body) <= _JOIN_MAX_BYTES else (head, body)
    timeouts = Timeouts.of(request.extensions.get("timeout") or {})
    return Call(parts, method == b"HEAD", timeouts, request.extensions.get("on_send"))


class Envelope(NamedTuple):
    """What all requests to an address have in common.

    Attributes:
        lines: request line and headers.
        origin: scheme, and host with port.
    """

    lines: bytes
    timeouts: Timeouts
    origin: tuple[str, bytes]


class Address:
    """Where POSTs of one kind go, with the headers that all of them carry.

    Args:
        headers: ``host`` among them; without anything that differs from request to request.
        timeouts_s: as in ``extensions["timeout"]``.
    """

    def __init__(self, url: httpx.URL, headers: RawHeaders, timeouts_s: dict[str, float | None]) -> None:
        self.url = url
        self.headers = headers
        self.timeouts_s = timeouts_s

    @functools.cached_property
    def envelope(self) -> Envelope:
        """Encoded and checked once.

        Raises:
            httpx.LocalProtocolError: a name or a value could not be sent safely.
        """
        lines = [_request_line(b"POST", self.url)]
        if _append_headers(lines, self.headers, body_bytes=0) != [b"host"]:
            raise _refused("an address has its Host header, and no length")
        return Envelope(_join_head(lines), Timeouts.of(self.timeouts_s), (self.url.scheme, self.url.netloc))


def prepare_addressed(
    envelope: Envelope, headers: RawHeaders, body: bytes, *, on_send: Callable[[], None] | None
) -> Call:
    """Serialise a request to an address; the headers are those that only it carries.

    Raises:
        httpx.LocalProtocolError: a name or a value could not be sent safely.
    """
    lines = [envelope.lines]
    if _append_headers(lines, headers, body_bytes=len(body)):
        raise _refused("host and length are not the request's to say")
    lines.append(b"Content-Length: %d" % len(body))
    head = _join_head(lines, line_ends=envelope.lines.count(b"\n")) + b"\r\n\r\n"
    parts = (head + body,) if len(body) <= _JOIN_MAX_BYTES else (head, body)
    return Call(parts, False, envelope.timeouts, on_send)


async def _read_body(request: httpx.Request) -> bytes:
    stream = request.stream
    if isinstance(stream, httpx.SyncByteStream):
        return b"".join(stream)
    return b"".join([part async for part in stream])


def _encode_head(method: bytes, request: httpx.Request, *, body_bytes: int) -> bytes:
    lines = [_request_line(method, request.url)]
    framing = _append_headers(lines, request.headers.raw, body_bytes)
    if b"host" not in framing:
        lines.insert(1, b"Host: " + request.url.netloc)
    if b"content-length" not in framing and (body_bytes or method in _BODY_EXPECTED):
        lines.append(b"Content-Length: %d" % body_bytes)
    return _join_head(lines) + b"\r\n\r\n"


def _request_line(method: bytes, url: httpx.URL) -> bytes:
    target = url.raw_path
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise _refused("the method or the target holds a character that HTTP does not allow")
    return b"%b %b HTTP/1.1" % (method, target)


def _join_head(lines: list[bytes], *, line_ends: int = 0) -> bytes:
    """The head without its last line end; ``line_ends`` are those that the lines bring with them."""
    head = b"\r\n".join(lines)
    # Counting the line ends of the whole head is one scan in C, where a check of each value would be many.
    line_ends += len(lines) - 1
    if head.count(b"\r") != line_ends or head.count(b"\n") != line_ends or b"\0" in head:
        raise _refused("a header value holds CR, LF or NUL")
    return head


def _append_headers(lines: list[bytes], headers: list[tuple[bytes, bytes]], body_bytes: int) -> list[bytes]:
    framing: list[bytes] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"transfer-encoding":
            continue  # the body is known by now and goes out with its length
        if lowered in (b"host", b"content-length"):
            _check_framing(lowered, value, body_bytes=body_bytes, seen=framing)
            framing.append(lowered)
        if not _is_token(name):
            raise _refused(f"header name {name!r} is not a token")
        lines.append(b"%b: %b" % (name, value))
    return framing


def _check_framing(name: bytes, value: bytes, *, body_bytes: int, seen: list[bytes]) -> None:
    if name in seen:
        raise _refused(f"{name.decode()} is given twice")
    if name == b"content-length" and value != b"%d" % body_bytes:
        raise _refused(f"content-length is {value!r}, the body has {body_bytes} bytes")


@functools.lru_cache(maxsize=1024)
def _is_token(name: bytes) -> bool:
    return _TOKEN.fullmatch(name) is not None


def _refused(message: str) -> httpx.LocalProtocolError:
    return fault(httpx.LocalProtocolError, message, request_sent=False)
