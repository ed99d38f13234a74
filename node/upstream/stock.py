"""The way back: aiohttp as the engine, for proxies and as a second opinion; same errors, same facts, slower."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream

from node.upstream.dialler import shared_ssl_context
from node.upstream.faults import fault

# aiohttp would add these on its own; the caller's headers are the whole truth.
_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class StockTransport(AiohttpTransport):
    """httpx-aiohttp with explicit limits, no total timeout, no decompression, no cookies and a deterministic close.

    What differs from FastTransport: the wait for a free connection and the connect share one clock, so ``PoolTimeout``
    never comes from here; idempotent methods may be replayed, a POST never; percent-encoding in URLs is tidied up.

    Args:
        ssl_context: for https; by default the process's shared one.
        limit_per_origin: connections to one scheme, host and port.
        keepalive_expiry_s: an idle connection is closed after this time.
        dns_ttl_s: how long addresses are used without asking again.
        proxy: an HTTP proxy for every request.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        limit_per_origin: int = 512,
        keepalive_expiry_s: float = 30.0,
        dns_ttl_s: float = 60.0,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        self._is_closed = False
        self._limit_per_origin = limit_per_origin
        self._keepalive_expiry_s = keepalive_expiry_s
        self._dns_ttl_s = dns_ttl_s
        super().__init__(
            verify=ssl_context or shared_ssl_context(), trust_env=False, proxy=proxy, client=self._open
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._check_open()
        if (on_send := request.extensions.get("on_send")) is not None:
            on_send()  # the connection may still have to be made; the engine does not say when it is
        try:
            with _translated():
                response = await super().handle_async_request(request)
        except asyncio.CancelledError:
            # Closing the connector cancels those who wait in its line; that is not our caller's cancellation.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._check_open()
            raise
        stream = cast(AiohttpResponseStream, response.stream)
        response.stream = _Body(stream)
        response.extensions["request_sent"] = True
        return response

    async def aclose(self) -> None:
        self._is_closed = True
        await super().aclose()
        # aiohttp's sockets close in the next turn of the loop.
        await asyncio.sleep(0)

    def _check_open(self) -> None:
        if self._is_closed:
            raise fault(httpx.ConnectError, "the transport is closed", request_sent=False)

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._limit_per_origin,
            keepalive_timeout=self._keepalive_expiry_s,
            ttl_dns_cache=int(self._dns_ttl_s),
            ssl=self.ssl_context,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTO_HEADERS,
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: AiohttpResponseStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for chunk in self._stream:
                yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _translated() -> Iterator[None]:
    """Give every error of the engine the class that FastTransport would use."""
    try:
        yield
    except httpx.TransportError as error:
        raise _translate(error.__cause__ or error, str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _translate(error, str(error)) from error
    except ValueError as error:
        raise fault(httpx.LocalProtocolError, str(error), request_sent=False) from error


def _translate(error: BaseException, message: str) -> httpx.TransportError:
    for engine_kind, kind, request_sent in _KINDS:
        if isinstance(error, engine_kind):
            return fault(kind, message or type(error).__name__, request_sent=request_sent)
    return fault(httpx.ReadError, message or type(error).__name__, request_sent=True)


# First match wins, so the special stand before the general.
_KINDS: tuple[tuple[type[BaseException], type[httpx.TransportError], bool], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout, False),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout, True),
    (aiohttp.ClientConnectorError, httpx.ConnectError, False),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol, False),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol, False),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError, True),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError, True),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError, True),
    (TimeoutError, httpx.ConnectTimeout, False),
)
