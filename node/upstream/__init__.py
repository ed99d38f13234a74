"""The HTTP client under the providers: one transport of ours for the traffic, a stock one as the way back."""

from __future__ import annotations

from typing import Literal

import httpx

from node.upstream.dialler import shared_ssl_context
from node.upstream.faults import was_request_sent
from node.upstream.messages import AddressedRequest, content_type, parts_of, raw_headers
from node.upstream.transport import FastTransport
from node.upstream.wire import Address

__all__ = [
    "Address",
    "AddressedRequest",
    "FastTransport",
    "content_type",
    "open_transport",
    "parts_of",
    "raw_headers",
    "was_request_sent",
]


def open_transport(
    kind: Literal["fast", "stock"],
    *,
    limit_per_origin: int = 512,
    keepalive_expiry_s: float = 30.0,
    dns_ttl_s: float = 60.0,
    replay_stale: bool = True,
    has_tls: bool = True,
) -> httpx.AsyncBaseTransport:
    """Open the transport of a node; whoever opens it closes it with ``aclose()``.

    Args:
        has_tls: load the certificates now; without it the first request to an origin of https waits for them, and all others with it.
    """
    if has_tls:
        shared_ssl_context()
    if kind == "stock":
        from node.upstream.stock import StockTransport  # here, because aiohttp takes 80 ms and 7 MB to import

        return StockTransport(
            limit_per_origin=limit_per_origin, keepalive_expiry_s=keepalive_expiry_s, dns_ttl_s=dns_ttl_s
        )
    return FastTransport(
        limit_per_origin=limit_per_origin,
        keepalive_expiry_s=keepalive_expiry_s,
        dns_ttl_s=dns_ttl_s,
        replay_stale=replay_stale,
    )
