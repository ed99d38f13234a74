"""The connection to Redis: short deadlines, no hidden retries, one way to run a script.

A timeout means "maybe applied": every script that changes something is idempotent by an id of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from shared_state import lua
from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.errors import ConfigurationError
from shared_state.keys import Keys

#: What redis-py and the event loop raise when the store is away, slow or not able to serve.
STORE_ERRORS = (RedisError, OSError, TimeoutError)

Argument = str | bytes | int
_SCHEMES = ("redis", "rediss", "unix")
_CONNECTIONS = 16
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&]*")


def mask_url(url: str) -> str:
    """The URL without its password, for people."""
    parts = urlsplit(url)
    if parts.password is not None:
        url = url.replace(f":{parts.password}@", ":***@", 1)
    return _QUERY_PASSWORD.sub(r"\1***", url)


class Script:
    """A Lua command: its text and the digest that the server knows it by."""

    __slots__ = ("digest", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = lua.source(name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Store:
    """One process's access to the shared state.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        namespace: first part of every key.
        timeout_s: deadline of one call, the wait for a connection included.
    """

    def __init__(
        self, url: str, *, namespace: str = "mm", timeout_s: float = 0.25, name: str = "modelmesh"
    ) -> None:
        if urlsplit(url).scheme not in _SCHEMES:
            raise ConfigurationError(
                [f"redis.url: {mask_url(url)!r} must begin with redis://, rediss:// or unix://"]
            )
        self.url = url
        self.keys = Keys(namespace)
        self.timeout_s = timeout_s
        self._scripts: dict[str, Script] = {}
        self.client: Redis = Redis(connection_pool=_pool(url, timeout_s, name))
        self._execute: Callable[..., Awaitable[Any]] = self.client.execute_command

    @property
    def masked_url(self) -> str:
        """The server's address without its password."""
        return mask_url(self.url)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """Runs a Lua command.

        Raises:
            RedisError, OSError, TimeoutError: the store is away or slow; the command may have been applied.
        """
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = Script(script)
        async with Deadline(self.timeout_s):
            try:
                reply = await self._execute("EVALSHA", known.digest, len(keys), *keys, *args)
            except NoScriptError:
                reply = await self._execute("EVAL", known.text, len(keys), *keys, *args)
        obey_cancellation()
        return reply

    async def command(self, *words: Argument) -> Any:
        """Sends a plain command; its reply as redis-py shapes it, text as bytes.

        Raises:
            RedisError, OSError, TimeoutError: the store is away or slow; the command may have been applied.
        """
        async with Deadline(self.timeout_s):
            reply = await self._execute(*words)
        obey_cancellation()
        return reply

    async def ping(self) -> None:
        """Raises when the store does not answer within the deadline."""
        async with Deadline(self.timeout_s):
            await self._execute("PING")
        obey_cancellation()

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.client.aclose()
        await self.client.connection_pool.aclose()


def _pool(url: str, timeout_s: float, name: str) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        # Our own deadline rules, for it can tell a slow server from a busy loop; these are the last resort behind it.
        timeout=2 * timeout_s,
        socket_timeout=2 * timeout_s,
        socket_connect_timeout=2 * timeout_s,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        protocol=2,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        decode_responses=False,
        health_check_interval=0,
        client_name=name,
    )
