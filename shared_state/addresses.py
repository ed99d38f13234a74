"""Addresses. Which reach this machine alone; and where Redis is: one server, a service that sentinels watch, or a cluster, as read from a URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from shared_state.errors import ConfigurationError

SENTINEL: Final = "redis+sentinel"
CLUSTER: Final = "redis+cluster"
_ONE_SERVER: Final = ("redis", "rediss", "unix")
_DEFAULT_PORTS: Final = {SENTINEL: 26379, CLUSTER: 6379}
_PATHS: Final = {SENTINEL: re.compile(r"/([^/]+)(?:/(\d+))?"), CLUSTER: re.compile(r"/?()()")}
_FORMS: Final = {
    SENTINEL: "redis+sentinel://host:26379,host:26379/service[/db]",
    CLUSTER: "redis+cluster://host:7000,host:7001",
}
_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>\d{1,5}))?")
#: Greedy up to the last ``@``: a password may hold any character, also those that ought to be escaped.
_PASSWORD = re.compile(r"^((?:[\w+.-]+://|(?![\w+.-]+://))[^:/@]*:).*@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&]*")

Host = tuple[str, int]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def mask_url(url: str) -> str:
    """The URL without its password, for people."""
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url, count=1))


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis URL, understood.

    Attributes:
        url: as it was given; what one server is connected to by.
        scheme: tells the three kinds apart.
        hosts: sentinels, or any nodes of the cluster; none for one server.
        service: the name that the sentinels know the primary by.
    """

    url: str
    scheme: str
    hosts: tuple[Host, ...] = ()
    username: str | None = None
    password: str | None = None
    service: str = ""
    db: int = 0


def parse_address(url: str) -> Address:
    """Understands a Redis URL.

    Raises:
        ConfigurationError: it is none; the message does not hold its password.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in _ONE_SERVER:
        return Address(url, scheme)
    if scheme not in _FORMS:
        raise _refusal(url, f"must begin with {', '.join(f'{s}://' for s in _ONE_SERVER + tuple(_FORMS))}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _refusal(url, f"must look like {_FORMS[scheme]}") from error
    login, _, hosts = parts.netloc.rpartition("@")
    path = _PATHS[scheme].fullmatch(parts.path)
    if path is None or parts.query or parts.fragment:
        raise _refusal(url, f"must look like {_FORMS[scheme]}")
    username, _, password = login.partition(":")
    return Address(
        url,
        scheme,
        hosts=tuple(_parse_host(url, host, scheme=scheme) for host in hosts.split(",")),
        username=unquote(username) or None,
        password=unquote(password) or None,
        service=unquote(path[1]),
        db=int(path[2] or 0),
    )


def _parse_host(url: str, text: str, *, scheme: str) -> Host:
    match = _HOST.fullmatch(text)
    port = int(match["port"] or _DEFAULT_PORTS[scheme]) if match else 0
    if match is None or not 0 < port < 65536:
        raise _refusal(url, f"{text!r} is not host:port; it must look like {_FORMS[scheme]}")
    return match["six"] or match["name"], port


def _refusal(url: str, why: str) -> ConfigurationError:
    return ConfigurationError([f"redis.url: {mask_url(url)!r}: {why}"])
