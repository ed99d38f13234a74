"""The connection to Redis: short deadlines, no hidden retries, one way to run a script.

A timeout means "maybe applied": every script that changes something is idempotent by an id of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from shared_state.addresses import mask_url, parse_address
from shared_state.cancellation import obey_cancellation
from shared_state.connections import STORE_ERRORS, close_client, open_client, open_lines, open_subscriber
from shared_state.deadline import Deadlines
from shared_state.keys import Keys
from shared_state.scripts import (
    Script,
    forget_libraries,
    has_no_functions,
    is_unknown_function,
    load_library,
)

__all__ = ["STORE_ERRORS", "Argument", "Script", "Store", "mask_url"]

Argument = str | bytes | int


class Store:
    """One process's access to the shared state.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``redis+cluster://``.
        namespace: first part of every key.
        timeout_s: deadline of one call, the wait for a connection included.
    """

    def __init__(
        self, url: str, *, namespace: str = "mm", timeout_s: float = 0.25, name: str = "modelmesh"
    ) -> None:
        self._address = parse_address(url)
        self.url = url
        self.keys = Keys(namespace)
        self.timeout_s = timeout_s
        self._scripts: dict[str, Script] = {}
        self._has_functions = True
        self.client = open_client(self._address, timeout_s=timeout_s, name=name, home=self.keys.leader)
        self._execute: Callable[..., Awaitable[Any]] = self.client.execute_command
        self._lines = open_lines(self._address, self.client)
        #: The cheap way for scripts, which are called with every request; elsewhere there is only the one.
        self._ask = self._execute if self._lines is None else self._lines.ask
        self._deadlines = Deadlines(timeout_s)

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
        with self._deadlines.begin():
            if self._has_functions and known.function:
                reply = await self._call(known, keys, args)
            else:
                reply = await self._evaluate(known, keys, args)
        obey_cancellation()
        return reply

    async def _call(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Calls it as a function; where there are none it is evaluated, now and from now on."""
        words = ("FCALL", script.function, len(keys), *keys, *args)
        try:
            return await self._ask(*words)
        except ResponseError as error:
            if not (is_unknown_function(error) or has_no_functions(error)):
                raise
            is_loading = is_unknown_function(error)
        try:
            if is_loading:
                await load_library(self.client, script, keys[0])
                return await self._ask(*words)
        except ResponseError as error:
            if not has_no_functions(error):
                raise
        self._has_functions = False
        return await self._evaluate(script, keys, args)

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        try:
            return await self._ask("EVALSHA", script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self._ask("EVAL", script.text, len(keys), *keys, *args)

    async def forget_libraries(self) -> int:
        """Removes what other releases have left on the servers; how many libraries.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        if not self._has_functions:
            return 0
        try:
            with self._deadlines.begin():
                count = await forget_libraries(self.client)
        except ResponseError as error:
            if not has_no_functions(error):
                raise
            return 0
        obey_cancellation()
        return count

    async def command(self, *words: Argument) -> Any:
        """Sends a plain command; its reply as redis-py shapes it, text as bytes.

        Raises:
            RedisError, OSError, TimeoutError: the store is away or slow; the command may have been applied.
        """
        with self._deadlines.begin():
            reply = await self._execute(*words)
        obey_cancellation()
        return reply

    async def ping(self) -> None:
        """Raises when the store does not answer within the deadline."""
        with self._deadlines.begin():
            await self._execute("PING")
        obey_cancellation()

    def subscriber(self, *, timeout_s: float) -> Redis:
        """A client of its own for one subscription; who asked for it closes it with ``close_client``."""
        return open_subscriber(self._address, self.client, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Closes all connections, for good: whoever calls afterwards finds the store away."""
        if self._lines is not None:
            await self._lines.aclose()
        await close_client(self.client)
