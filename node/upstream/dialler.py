"""Opens connections: names looked up once a minute, addresses tried in turn, TLS with the name kept."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl

import httpx

from node.upstream.connection import Connection, ConnectionOwner
from node.upstream.faults import fault
from node.upstream.wire import Origin
from shared_state.cancellation import end_all

_NAMES_MAX = 1024


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """The process's one context: loading the certificate bundle takes tens of milliseconds."""
    return httpx.create_ssl_context()


class NameCache:
    """Addresses by host, kept for ``ttl_s``; one lookup at a time per host, and old news rather than none."""

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lookups: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """Return the addresses of a host, in the resolver's order.

        Raises:
            OSError: the name cannot be resolved and never could.
        """
        if _is_address(host):
            return (host,)
        loop = asyncio.get_running_loop()
        known = self._known.get(host)
        if known is not None and loop.time() < known[0]:
            return known[1]
        try:
            # The lookup is everybody's: one caller that leaves must not cancel it for the others.
            return await asyncio.shield(self._lookup(host, port))
        except OSError:
            if known is None:
                raise
            return known[1]

    async def aclose(self) -> None:
        await end_all(self._lookups.values())

    def _lookup(self, host: str, port: int) -> asyncio.Task[tuple[str, ...]]:
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = asyncio.create_task(self._ask(host, port))
            lookup.add_done_callback(functools.partial(self._on_answer, host))
        return lookup

    def _on_answer(self, host: str, lookup: asyncio.Task[tuple[str, ...]]) -> None:
        self._lookups.pop(host, None)
        if not lookup.cancelled():
            lookup.exception()  # seen, also when every caller has left

    async def _ask(self, host: str, port: int) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except asyncio.CancelledError:
            # Only closing cancels a lookup; those who wait for it are not cancelled themselves.
            raise OSError(f"the lookup of {host} was ended") from None
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(self._known) >= _NAMES_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[host] = (loop.time() + self._ttl_s, addresses)
        return addresses


class Dialler:
    """Opens the connections of one origin.

    Args:
        ssl_context: for an origin of https, with its name for SNI and for the certificate; None for one of http.
    """

    def __init__(self, origin: Origin, names: NameCache, *, ssl_context: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._names = names
        self._ssl_context = ssl_context

    async def dial(self, owner: ConnectionOwner) -> Connection:
        """Open one connection: name lookup, connect, TLS handshake. The clock is the caller's.

        Raises:
            httpx.ConnectTimeout: the system gave up waiting.
            httpx.ConnectError: the name is unknown, nobody listens, or TLS failed.
        """
        try:
            addresses = await self._names.resolve(self._origin.host, self._origin.port)
            return await self._dial_any(addresses, owner)
        except (OSError, UnicodeError) as error:
            kind = httpx.ConnectTimeout if isinstance(error, TimeoutError) else httpx.ConnectError
            raise fault(kind, f"{self._origin}: {error}", request_sent=False) from error

    async def _dial_any(self, addresses: tuple[str, ...], owner: ConnectionOwner) -> Connection:
        failure: OSError = OSError("the name has no address")
        for address in addresses:
            try:
                return await self._dial_address(address, owner)
            except OSError as error:
                failure = error
        raise failure

    async def _dial_address(self, address: str, owner: ConnectionOwner) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(owner, loop)
        try:
            await loop.create_connection(
                lambda: connection,
                address,
                self._origin.port,
                ssl=self._ssl_context,
                server_hostname=self._origin.host if self._ssl_context else None,
            )
        except BaseException:
            connection.close()
            raise
        return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
