"""Connections for commands that have to be cheap: redis-py's own, without its pool, its retries and its clocks around each call.

Whoever asks sets the deadline; when it ends a call, or anything else does, the connection under it is closed, so no late reply can pass for another's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool

#: So many calls at once; what is more goes the other way.
_MOST: Final = 8


class Lines:
    """A few connections to one server, the one used last first.

    Args:
        pool: makes the connections, and is not asked for anything else.
        otherwise: how a command is sent when all of them are in use, or closed for good.
    """

    def __init__(self, pool: ConnectionPool, *, otherwise: Callable[..., Awaitable[Any]]) -> None:
        self._pool = pool
        self._otherwise = otherwise
        self._open: list[AbstractConnection] = []
        self._free: list[AbstractConnection] = []
        self._is_closed = False

    async def ask(self, *words: Any) -> Any:
        """Sends a command; its plain reply.

        Raises:
            RedisError, OSError: the server is away; the command may have been carried out.
        """
        line = self._take()
        if line is None:
            return await self._otherwise(*words)
        try:
            if not line.is_connected or await line.can_read():
                # Never used, closed by the other side, or out of step.
                await line.disconnect(nowait=True)
                await line.connect()  # type: ignore[no-untyped-call]
            await line.send_packed_command(pack_command(words), check_health=False)
            return await line.read_response()
        finally:
            self._free.append(line)
            if self._is_closed:  # while it was being opened, perhaps
                await line.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Closes all connections, also those in use; before the other way is closed."""
        self._is_closed = True
        for line in self._open:
            await line.disconnect()

    def _take(self) -> AbstractConnection | None:
        if self._is_closed:
            return None
        if self._free:
            return self._free.pop()
        if len(self._open) >= _MOST:
            return None
        line: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        line.socket_timeout = None
        self._open.append(line)
        return line
