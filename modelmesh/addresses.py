"""Addresses: how people see them, and the taking of one."""

from __future__ import annotations

import socket

from modelmesh.errors import AddressError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        AddressError: the address is taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0].lower()
        raise AddressError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port"
        ) from error


def http_url(host: str, port: int) -> str:
    """The address as a URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
