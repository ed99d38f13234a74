"""Requests and answers that are httpx's to everybody, and cost little to those who know them.

httpx builds, copies and normalises headers several times for each message, which takes longer than sending it. What an address always
sends is encoded and checked once here, and a message becomes what httpx expects of it only when somebody looks.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx

from node.upstream.wire import Address, RawHeaders


class AddressedRequest(httpx.Request):
    """A POST to an address.

    Args:
        headers: those that only this request carries; its length goes without saying.
        on_send: called just before the first byte goes out; what it raises is raised instead.
    """

    def __init__(
        self,
        address: Address,
        headers: RawHeaders,
        body: bytes,
        *,
        on_send: Callable[[], None] | None = None,
    ) -> None:
        self.method = "POST"
        self.url = address.url
        self.address = address
        self.own_headers = headers
        self.on_send = on_send
        self._content = body

    @property
    def body(self) -> bytes:
        """The whole body."""
        return self._content

    @functools.cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """All headers, as httpx has them."""
        length = (b"content-length", b"%d" % len(self._content))
        return httpx.Headers([*self.address.headers, *self.own_headers, length])

    @functools.cached_property
    def stream(self) -> httpx.ByteStream:  # type: ignore[override]
        """The body, as httpx has it."""
        return httpx.ByteStream(self._content)

    @functools.cached_property
    def extensions(self) -> dict[str, Any]:  # type: ignore[override]
        """Timeouts and ``on_send``, as transports look for them."""
        timeouts = {"timeout": self.address.timeouts_s}
        return timeouts if self.on_send is None else {**timeouts, "on_send": self.on_send}


class StreamedResponse(httpx.Response):
    """An answer whose body is still to come.

    Args:
        raw_headers: as they came, but for names in lower case.
    """

    def __init__(
        self, status: int, raw_headers: RawHeaders, stream: httpx.AsyncByteStream, extensions: dict[str, Any]
    ) -> None:
        self.status_code = status
        self.raw_headers = raw_headers
        self.stream = self._body = stream
        self.extensions = extensions
        self.history = []
        self.is_closed = False
        self.is_stream_consumed = False
        self.next_request = None
        self.default_encoding = "utf-8"
        self._request = None
        self._num_bytes_downloaded = 0

    @functools.cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """All headers, as httpx has them."""
        return httpx.Headers(self.raw_headers)

    async def aclose(self) -> None:
        """Closes the answer, and its connection unless it was read to its end."""
        if not self.is_closed:
            self.is_closed = True
            await self._body.aclose()


def raw_headers(response: httpx.Response) -> RawHeaders:
    """An answer's headers as they came, but for names in lower case."""
    if isinstance(response, StreamedResponse):
        return response.raw_headers
    return [(name.lower(), value) for name, value in response.headers.raw]


def content_type(response: httpx.Response) -> bytes:
    """What an answer says that it is, empty if it does not."""
    return first(raw_headers(response), b"content-type")


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The value of the first header of a name, both in lower case; empty if there is none."""
    for known, value in headers:
        if known == name:
            return value
    return b""


def parts_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body of an answer, as it comes."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return aiter(response.stream)
