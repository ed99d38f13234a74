"""The transport that carries the traffic: HTTP/1.1 on asyncio and httptools, behind httpx's interface."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from node.upstream.connection import Connection
from node.upstream.dialler import Dialler, NameCache, shared_ssl_context
from node.upstream.exchange import Exchange, ResponseBody
from node.upstream.faults import fault, mark_sent
from node.upstream.messages import AddressedRequest, StreamedResponse
from node.upstream.pool import OriginPool, OriginStats
from node.upstream.wire import Call, origin_of, prepare_addressed, prepare_call

_ORIGINS_MAX = 256


class FastTransport(httpx.AsyncBaseTransport):
    """An HTTP/1.1 client for one event loop; no proxies, no HTTP/2, no decompression.

    Timeouts come with each request in ``extensions["timeout"]``. ``read`` runs for the whole response head, then for
    each wait for more body. Every exception is one of httpx's and carries ``request_sent``; a response tells in its
    extensions ``request_sent``, ``reused`` and ``replayed``. ``extensions["on_send"]`` is called when there is a connection, just
    before the first byte is written; what it raises is raised instead of sending.

    A request is replayed once, on a fresh connection, only when a kept-alive connection ended before any byte of the
    response. The upstream may still have seen it: ``replayed`` means maybe executed twice.

    Args:
        ssl_context: for https; by default the process's shared one with certifi's bundle.
        limit_per_origin: connections to one scheme, host and port; more requests wait in line.
        keepalive_expiry_s: an idle connection is closed after this time, or earlier if the peer announces less.
        max_age_s: an older connection is closed when it becomes idle, so that changes of DNS are noticed.
        dns_ttl_s: how long addresses are used without asking again.
        replay_stale: send once more when a kept connection turns out to be dead. Off where every copy must be admitted: then the
            error says ``was_stale``.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        limit_per_origin: int = 512,
        keepalive_expiry_s: float = 30.0,
        max_age_s: float = 300.0,
        dns_ttl_s: float = 60.0,
        replay_stale: bool = True,
    ) -> None:
        self._replay_stale = replay_stale
        self._ssl_context = ssl_context
        self._limit_per_origin = limit_per_origin
        self._keepalive_expiry_s = keepalive_expiry_s
        self._max_age_s = max_age_s
        self._names = NameCache(ttl_s=dns_ttl_s)
        self._pools: dict[tuple[str, bytes], OriginPool] = {}
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            if isinstance(request, AddressedRequest):
                envelope = request.address.envelope
                call = prepare_addressed(envelope, request.own_headers, request.body, on_send=request.on_send)
                origin = envelope.origin
            else:
                call = await prepare_call(request)
                origin = request.url.scheme, request.url.netloc
            exchange = await self._send(call, origin, request.url)
        except BaseException as error:
            if not hasattr(error, "request_sent"):
                mark_sent(error, False)
            raise
        response = exchange.response
        return StreamedResponse(
            response.status,
            response.headers,
            ResponseBody(exchange),
            {
                "http_version": response.http_version,
                "request_sent": True,
                "reused": exchange.is_reused,
                "replayed": exchange.is_replayed,
            },
        )

    async def aclose(self) -> None:
        """Close every connection, also those in use, and end every wait."""
        self._is_closed = True
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))
        await self._names.aclose()

    def stats(self) -> dict[str, OriginStats]:
        """Connections by origin, such as ``{"https://host": {"open": 3, "idle": 1, "in_use": 2, "waiting": 0}}``."""
        return {
            f"{scheme}://{netloc.decode()}": pool.stats() for (scheme, netloc), pool in self._pools.items()
        }

    async def _send(self, call: Call, origin: tuple[str, bytes], url: httpx.URL) -> Exchange:
        """Send a call and return its exchange with the head received."""
        pool = self._pool_of(origin, url)
        connection = await pool.acquire(call.timeouts)
        if call.on_send is not None:
            try:
                call.on_send()
            except BaseException:
                connection.arm(self._keepalive_expiry_s)
                pool.release(connection)
                raise
        exchange = connection.begin(call)
        try:
            await exchange.receive_head()
        except BaseException as error:
            is_stale = exchange.is_stale and isinstance(error, httpx.RequestError)
            if not (is_stale and self._replay_stale):
                mark_sent(error, exchange.is_sent)
                error.was_stale = is_stale  # type: ignore[attr-defined]
                exchange.abandon()
                raise
        else:
            return exchange
        return await _replay(pool, connection, call)

    def _pool_of(self, origin: tuple[str, bytes], url: httpx.URL) -> OriginPool:
        if self._is_closed:
            raise fault(httpx.ConnectError, "the transport is closed", request_sent=False)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = self._open_pool(url)
        return pool

    def _open_pool(self, url: httpx.URL) -> OriginPool:
        origin = origin_of(url)
        ssl_context = self._ssl_context or shared_ssl_context() if origin.is_tls else None
        dialler = Dialler(origin, self._names, ssl_context=ssl_context)
        if len(self._pools) >= _ORIGINS_MAX:
            self._pools = {key: pool for key, pool in self._pools.items() if not pool.is_empty}
        return OriginPool(
            dialler.dial,
            limit=self._limit_per_origin,
            keepalive_expiry_s=self._keepalive_expiry_s,
            max_age_s=self._max_age_s,
        )


async def _replay(pool: OriginPool, stale: Connection, call: Call) -> Exchange:
    """Send a call a second time, in the place of the connection that died under the first."""
    exchange: Exchange | None = None
    try:
        connection = await pool.replace(stale, call.timeouts.connect_s)
        exchange = connection.begin(call)
        await exchange.receive_head()
    except BaseException as error:
        mark_sent(error, True)  # the first copy may have arrived, whatever became of this one
        if exchange is not None:
            exchange.abandon()
        raise
    exchange.is_replayed = True
    return exchange
