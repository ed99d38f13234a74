"""Response heads: validated, framed, and ready for the wire.

A header that carries a line break would let a provider's or a caller's text write headers or whole responses of its
own, so every head is checked once, as a whole, just before it leaves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN = bytes(code for code in (*range(0x20), 0x7F) if code != 0x09)
_KNOWN_NAMES_MAX = 1024


class _Role(Enum):
    CONTENT_LENGTH = auto()
    CONNECTION = auto()
    DATE = auto()
    OURS = auto()  # framing is the server's own affair (ASGI specification)


_ROLES = {
    b"content-length": _Role.CONTENT_LENGTH,
    b"connection": _Role.CONNECTION,
    b"date": _Role.DATE,
    b"transfer-encoding": _Role.OURS,
    b"keep-alive": _Role.OURS,
}
_known_names: dict[bytes, tuple[bytes, _Role | None]] = {}
_status_lines = {
    int(status): b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
    for status in HTTPStatus
    if status >= 200
}


@dataclass(slots=True)
class ResponseHead:
    """What the application's headers say, and their lines.

    Attributes:
        status: of the response, 200 to 999.
        lines: status line and headers, without the server's own framing and without the empty line.
        content_length: the body's length, if the application announced it.
        wants_close: the application asks for the end of the connection.
        has_date: the application gave a date.
    """

    status: int
    lines: bytes = b""
    content_length: int | None = None
    wants_close: bool = False
    has_date: bool = False

    def note(self, role: _Role, value: bytes) -> bool:
        """Remember what a header with a role means; whether its line is sent."""
        if role is _Role.CONTENT_LENGTH:
            self.content_length = _read_length(value, self.content_length)
            return self.status != 204
        if role is _Role.DATE:
            self.has_date = True
            return True
        if role is _Role.CONNECTION:
            self.wants_close = self.wants_close or b"close" in value.lower()
        return False


def encode_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """Check and encode what an application sends as ``http.response.start``.

    Raises:
        ValueError: a header is malformed, or the status is none of a final response.
    """
    head = ResponseHead(status)
    parts: list[bytes] = []
    for name, value in headers:
        prefix, role = _known_names.get(name) or _learn(name)
        if role is None or head.note(role, value):
            parts += (prefix, value, b"\r\n")
    lines = b"".join(parts)
    # Each line brings one CR and one LF: one control character more, and somebody writes headers of his own.
    if len(lines) - len(lines.translate(None, _FORBIDDEN)) != len(parts) // 3 * 2:
        raise ValueError("a response header's value has a line break or another control character")
    head.lines = _status_line(status) + lines + (b"" if head.has_date else _date.line())
    return head


def _learn(name: bytes) -> tuple[bytes, _Role | None]:
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    known = (name + b": ", _ROLES.get(name.lower()))
    if len(_known_names) < _KNOWN_NAMES_MAX:  # names may come from a provider
        _known_names[name] = known
    return known


def _read_length(value: bytes, earlier: int | None) -> int:
    if not value.isdigit() or earlier not in (None, int(value)):
        raise ValueError(f"not a content length, or two that differ: {value!r}")
    return int(value)


def _status_line(status: int) -> bytes:
    line = _status_lines.get(status)
    if line is None:
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ValueError(f"not the status of a final response: {status!r}")
        line = b"HTTP/1.1 %d \r\n" % status
    return line


class _Date:
    """The Date header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = b"date: %s\r\n" % formatdate(now, usegmt=True).encode()
        return self._line


_date = _Date()
