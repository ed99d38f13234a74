"""Connections to the store that outlive the event loop they were opened in: told to the test that left them, not to the one they are found in."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from redis.asyncio.connection import AbstractConnection

_opened: weakref.WeakKeyDictionary[AbstractConnection, asyncio.AbstractEventLoop] = (
    weakref.WeakKeyDictionary()
)
_connect = AbstractConnection.connect_check_health


async def _noted(self: AbstractConnection, *args: Any, **options: Any) -> None:
    _opened[self] = asyncio.get_running_loop()
    await _connect(self, *args, **options)


def watch_connections() -> None:
    """From here on every connection of redis-py's is known, with its loop."""
    AbstractConnection.connect_check_health = _noted  # type: ignore[method-assign]


def connections_left() -> list[str]:
    """Those that nobody can close any more; each is told once."""
    left = [one for one, loop in list(_opened.items()) if loop.is_closed() and one._writer is not None]
    for one in left:
        del _opened[one]
        _drop(one)
    return [repr(one) for one in left]


def _drop(connection: Any) -> None:
    """Closes it without its loop: what is told need not warn again, in another test."""
    transport = connection._writer.transport
    if getattr(transport, "_sock", None) is not None:
        transport._sock.close()
        transport._sock, transport._closing = None, True
    connection._writer = connection._reader = None
