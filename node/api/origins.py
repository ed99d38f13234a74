"""Whose web pages may send requests here. A browser sends what any page asks of it, to servers of its own machine too.

Where a token is required no page can know it, and nothing here is asked. Where none is, two headers tell: a browser says which page
a request that changes something comes from, and under which name it has found this server. A name that is neither this machine's nor
configured may be one that a website owns and has pointed here, which makes its page and this server one site to the browser.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.body import headers_of
from shared_state.addresses import is_loopback
from shared_state.errors import OriginNotAllowedError

_ORIGIN: Final = b"origin"
_SITE: Final = b"sec-fetch-site"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORITY: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]@/?#\s]+))(?::\d{1,5})?")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_LONGEST: Final = 100
_CALLS: Final = "/v1/"


class Origins:
    """Tells our own pages from others.

    Args:
        listed: origins that count as ours, as browsers write them. ``*`` opens the APIs of models to every page, and nothing else.
    """

    def __init__(self, listed: Sequence[str] = ()) -> None:
        self._has_any = "*" in listed
        self._listed = frozenset(listed) - {"*"}
        self._names = frozenset(_host_of(_authority_of(origin)) for origin in self._listed)

    def check_call(self, scope: Scope) -> None:
        """Lets a call of a model pass.

        Raises:
            OriginNotAllowedError: a page of another site sends it.
        """
        headers = headers_of(scope)  # before every call: SDKs send neither of these
        if (_ORIGIN in headers or _SITE in headers) and not self._has_any:
            self._check_page(scope, remedy="require tokens or client keys")

    def check_order(self, scope: Scope) -> None:
        """Lets a request of an operator pass.

        Raises:
            OriginNotAllowedError: a page of another site sends it, or this server was found under a name of theirs.
        """
        self.check_host(scope)
        self._check_page(scope, remedy="set MODELMESH_ADMIN_TOKEN")

    def check_host(self, scope: Scope) -> None:
        """Lets pass what asks for this machine, for an address, for a name without a dot, or for a host of a listed origin.

        No website has an address, which cannot be pointed elsewhere, or a bare name, as load balancers, containers and hosts of one network call each other.

        Raises:
            OriginNotAllowedError: it asks for another name.
        """
        given = headers_of(scope).get(b"host", b"").decode("latin-1")
        host = _host_of(given)
        if given and not (_is_here(host) or _is_address(host) or _is_bare(host) or host in self._names):
            raise OriginNotAllowedError(
                f"host {given[:_LONGEST]!r} is not known here, and no token is required: a website could stand behind"
                " that name; ask for 127.0.0.1, list its origin in proxy.cors.origins, or set MODELMESH_ADMIN_TOKEN",
                code="host_not_allowed",
            )

    def _check_page(self, scope: Scope, *, remedy: str) -> None:
        if scope["method"] in _SAFE:
            return
        headers = headers_of(scope)
        origin = headers.get(_ORIGIN)
        if origin is None:
            if headers.get(_SITE) == b"cross-site":
                raise _refusal("another site", remedy)
        elif not self._is_ours(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
            raise _refusal(repr(origin.decode("latin-1")[:_LONGEST]), remedy)

    def _is_ours(self, origin: str, host: str) -> bool:
        """Listed, of this machine, or found under the very address that this request asks for."""
        authority = _authority_of(origin)
        own = _host_of(authority)
        return origin in self._listed or _is_here(own) or (authority == host and _is_address(own))


def open_to_pages(application: ASGIApp, listed: Sequence[str]) -> ASGIApp:
    """The application, whose APIs of models tell browsers that pages of these origins may read their answers."""
    if not listed:
        return application
    shared = CORSMiddleware(
        application,
        allow_origins=listed,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["*"],
    )

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        is_call = scope["type"] == "http" and scope["path"].startswith(_CALLS)
        await (shared if is_call else application)(scope, receive, send)

    return serve


def _refusal(page: str, remedy: str) -> OriginNotAllowedError:
    return OriginNotAllowedError(
        f"a web page of {page} may not send this: no token is required here, so every website could;"
        f" list its origin in proxy.cors.origins, or {remedy}"
    )


def _authority_of(origin: str) -> str:
    return origin.partition("://")[2]


def _host_of(authority: str) -> str:
    """The host alone, as it is compared; empty for what is none."""
    match = _AUTHORITY.fullmatch(authority)
    return (match["six"] or match["name"]).lower().removesuffix(".") if match else ""


def _is_here(host: str) -> bool:
    return is_loopback(host) or host.endswith(".localhost")


def _is_bare(host: str) -> bool:
    return _BARE.fullmatch(host) is not None


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False
