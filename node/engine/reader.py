"""Requests out of a byte stream: httptools for the syntax, limits on heads, and no way into another protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import httptools

from node.engine.contract import ServerOptions
from node.engine.cycle import Cycle
from node.engine.request_head import Framing, Headers, RefusedError, judge_headers

_LINE_OVERHEAD_BYTES = 4  # ": " and the line's end

Begin = Callable[[bytes, bytes, str, Headers, Framing], Cycle]


class RequestReader:
    """Feeds the parser, and is what the parser calls back.

    Attributes:
        cycle: the request whose body is being read.
        in_head: a request head has begun and is not complete.
    """

    def __init__(self, options: ServerOptions, begin: Begin) -> None:
        self.cycle: Cycle | None = None
        self.in_head = False
        self._max_head_bytes = options.max_head_bytes
        self._max_headers = options.max_headers
        self._begin = begin
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._skips_body = False

    def feed(self, data: bytes) -> None:
        """Parse some bytes.

        Raises:
            RefusedError: they are no acceptable request, and nothing after them can be.
        """
        if self._parser is None:
            return
        seen_bytes = self._head_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            self._read_on(data[stop.args[0] :])
        except httptools.HttpParserError as error:
            self.close()
            raise _explained(error) from error
        # A header's name or value that is not complete has not been counted by a callback yet.
        if self.in_head and seen_bytes == self._head_bytes:
            self._count_head(len(data))

    def close(self) -> None:
        """Read no more. Parser, this object and its owner hold one another: free them now, not at the next collection."""
        self._parser = None
        self._begin = _begin_nothing
        self.in_head = False

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.in_head = True
        self._target = b""
        self._headers = []
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._count_head(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + _LINE_OVERHEAD_BYTES
        if self._head_bytes > self._max_head_bytes:
            self._refuse_head()
        if self.in_head:  # else a trailer: counted with the head, and dropped
            headers = self._headers
            headers.append((name.lower(), value.rstrip(b" \t")))
            if len(headers) > self._max_headers:
                raise RefusedError(431, f"More than {self._max_headers} request headers.")

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        assert parser is not None
        version = parser.get_http_version()
        framing = judge_headers(headers, version)
        if parser.should_upgrade():
            framing = self._without_upgrade(parser.get_method(), framing)
        self.in_head = False
        self.cycle = self._begin(parser.get_method(), self._target, version, headers, framing)

    def on_body(self, chunk: bytes) -> None:
        if self.cycle is not None:
            self.cycle.feed(chunk)

    def on_message_complete(self) -> None:
        if self.cycle is not None and not self._skips_body:
            self.cycle.feed_end()
            self.cycle = None

    # Details.

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > self._max_head_bytes:
            self._refuse_head()

    def _refuse_head(self) -> NoReturn:
        self.close()
        raise RefusedError(431, f"The request head is larger than {self._max_head_bytes} bytes.")

    def _without_upgrade(self, method: bytes, framing: Framing) -> Framing:
        """An Upgrade header is ignored, as the standard allows; the connection ends after this request."""
        if method == b"CONNECT":
            raise RefusedError(400, "CONNECT is not served here.")
        self._skips_body = framing.has_body
        return replace(framing, keep_alive=False)

    def _read_on(self, rest: bytes) -> None:
        """The parser stops at an Upgrade and takes the body for another protocol: read it with a parser of its own."""
        if not self._skips_body:
            self.close()
            return
        self._skips_body = False
        self._parser = httptools.HttpRequestParser(_BodyOnly(self))
        lines = [b"%b: %b\r\n" % header for header in self._headers if header[0] in _BODY_FRAMING]
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))
        self.feed(rest)


def _begin_nothing(*_: object) -> Cycle:
    """Stands for an owner that is gone; nobody calls it, for nothing is parsed any more."""
    raise RefusedError(400, "Nothing is read here any more.")


class _BodyOnly:
    """Callbacks for a body whose head has been read already; what follows the body is dropped."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader

    def on_body(self, chunk: bytes) -> None:
        self._reader.on_body(chunk)

    def on_message_complete(self) -> None:
        self._reader.on_message_complete()
        self._reader.close()


_BODY_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def _explained(error: httptools.HttpParserError) -> Exception:
    """Our own refusal from inside a callback, a fault of ours, or what the parser found."""
    if isinstance(error, httptools.HttpParserCallbackError) and isinstance(error.__context__, Exception):
        return error.__context__
    return RefusedError(400, f"The request is malformed: {error}.")
