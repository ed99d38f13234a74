"""redis-py's connections, with one more way in which a connection may be closed.

uvloop closes a transport in the turn in which it hears of a reset; whoever writes to it before he has heard gets a RuntimeError, and redis-py
lets that through. It is a connection that is gone, like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError

_Pool = TypeVar("_Pool", bound=ConnectionPool)


class Steady(AbstractConnection):
    """Knows a closed transport when it meets one."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Writes a command.

        Raises:
            RedisError, OSError, TimeoutError: the connection is gone, or was never made.
        """
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection is closed: {error}") from error


class SteadyConnection(Steady, Connection):
    """Over TCP."""


class SteadyTlsConnection(Steady, SSLConnection):
    """Over TLS."""


class SteadyUnixConnection(Steady, UnixDomainSocketConnection):
    """Over a unix socket."""


_STEADY: Final[dict[Any, Any]] = {
    Connection: SteadyConnection,
    SSLConnection: SteadyTlsConnection,
    UnixDomainSocketConnection: SteadyUnixConnection,
}


def steady(kind: Any) -> Any:
    """The class of connections that is steady and else like this one."""
    return _STEADY.get(kind, kind)


def make_steady(pool: _Pool) -> _Pool:
    """The pool, whose connections are steady from now on."""
    pool.connection_class = steady(pool.connection_class)
    return pool
