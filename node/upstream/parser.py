"""Bytes in, one response out: httptools with the limits and the end-of-body rules that it leaves to its caller.

No I/O and no clock. One parser reads one response, so nothing of an answer can leak into the next.
"""

from __future__ import annotations

import re

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from node.upstream.faults import fault

HEAD_MAX_BYTES = 64 * 1024
HEADERS_MAX = 200
INTERIM_MAX = 16
_KEEP_ALIVE_TIMEOUT = re.compile(rb"timeout\s*=\s*(\d{1,6})")


class ResponseParser:
    """The state of one response.

    Attributes:
        status: the final status, 0 until its head is complete.
        headers: pairs of the final head, names in lower case.
        chunks: body bytes that nobody took yet; ``unread_bytes`` is their sum.
        is_complete: the last byte of the response has arrived.
        has_bytes: anything at all has arrived.
        keepalive_hint_s: how long the peer says that it keeps an idle connection, if it says so.
    """

    __slots__ = (
        "_fed_bytes",
        "_header_bytes",
        "_http",
        "_interims",
        "_is_head",
        "_is_keepalive",
        "_is_surplus",
        "_is_until_eof",
        "_refusal",
        "chunks",
        "has_bytes",
        "headers",
        "http_version",
        "is_complete",
        "keepalive_hint_s",
        "status",
        "unread_bytes",
    )

    def __init__(self, *, is_head: bool = False) -> None:
        self._http: HttpResponseParser | None = HttpResponseParser(self)
        self._is_head = is_head
        self._fed_bytes = 0
        self._header_bytes = 0
        self._interims = 0
        self._is_keepalive = False
        self._is_surplus = False
        self._is_until_eof = False
        self._refusal = ""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.http_version = b"HTTP/1.1"
        self.chunks: list[bytes] = []
        self.unread_bytes = 0
        self.is_complete = False
        self.has_bytes = False
        self.keepalive_hint_s: float | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may carry another request after this response."""
        return self.is_complete and self._is_keepalive and not self._is_surplus

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer.

        Raises:
            httpx.RemoteProtocolError: they are not a response, or break a limit.
        """
        http = self._http
        if http is None:
            self._is_surplus = True
            return
        self.has_bytes = True
        try:
            http.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.is_complete:
                self.close()
                raise _unreadable(self._refusal or str(error)) from error
            self._is_surplus = True
        if self.is_complete:
            self.close()
        elif not self.status:
            self._bound_unfinished_head(len(data))

    def feed_eof(self) -> None:
        """Take the end of the connection.

        Raises:
            httpx.RemoteProtocolError: the response is not finished by it.
        """
        self.close()
        if self._is_until_eof or self.is_complete:
            self.is_complete = True
        elif not self.has_bytes:
            raise _unreadable("the server disconnected without sending a response")
        elif not self.status:
            raise _unreadable("the connection ended inside the head")
        else:
            raise _unreadable("the connection ended before the body did")

    def take(self) -> bytes:
        """Hand over all unread body bytes."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks = []
        self.unread_bytes = 0
        return data

    def close(self) -> None:
        """Part from the native parser: it holds our methods, and only the garbage collector could end that ring."""
        self._http = None

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._is_surplus = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > HEAD_MAX_BYTES:
            self._refuse(f"headers are larger than {HEAD_MAX_BYTES} bytes")
        if self.status:
            return  # a trailer
        if len(self.headers) >= HEADERS_MAX:
            self._refuse(f"more than {HEADERS_MAX} headers")
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return  # another response behind ours: surplus, already noted
        http = self._parser()
        status = http.get_status_code()
        if status < 100 or status == 101:
            self._refuse(f"status {status} cannot answer this request")
        if status < 200:
            return
        self._read_framing()
        self.status = status
        if http.get_http_version() == "1.0":
            self.http_version = b"HTTP/1.0"
        if self._is_head:
            self.is_complete = True
            self._is_keepalive = http.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if self.is_complete:
            self._is_surplus = True
            return
        self.chunks.append(data)
        self.unread_bytes += len(data)

    def on_message_complete(self) -> None:
        if not self.status:
            self._interims += 1
            if self._interims > INTERIM_MAX:
                self._refuse(f"more than {INTERIM_MAX} interim responses")
            self.headers = []
        elif not self.is_complete:
            self.is_complete = True
            self._is_keepalive = self._parser().should_keep_alive()

    def _read_framing(self) -> None:
        is_framed = False
        for name, value in self.headers:
            if name == b"content-length":
                is_framed = True
            elif name == b"transfer-encoding":
                is_framed = True
                if value.lower() != b"chunked":
                    self._refuse(f"transfer-encoding {value!r} is not understood")
            elif name == b"keep-alive" and (hint := _KEEP_ALIVE_TIMEOUT.search(value)):
                self.keepalive_hint_s = float(hint[1])
        self._is_until_eof = not is_framed

    def _bound_unfinished_head(self, received_bytes: int) -> None:
        self._fed_bytes += received_bytes
        if self._fed_bytes > HEAD_MAX_BYTES:
            self.close()
            raise _unreadable(f"the head is larger than {HEAD_MAX_BYTES} bytes")

    def _parser(self) -> HttpResponseParser:
        assert self._http is not None  # it is the one that calls
        return self._http

    def _refuse(self, reason: str) -> None:
        # httptools reports "callback error" whatever is raised inside it.
        self._refusal = reason
        raise ValueError(reason)


def _unreadable(reason: str) -> httpx.RemoteProtocolError:
    return fault(httpx.RemoteProtocolError, reason, request_sent=True)
