"""Events to a function of one's own: an async one is awaited, a plain one runs in a thread."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from scheduler.sinks.events.base import EventTarget, Record, TargetError
from shared_state.config.observability import EventTargetConfig
from shared_state.errors import ConfigurationError


class CallbackTarget(EventTarget):
    """Calls a function with one event at a time.

    Raises:
        ConfigurationError: there is no such function.
    """

    most = 1

    def __init__(self, config: EventTargetConfig) -> None:
        self._name = str(config.on_event)
        self._timeout_s = config.timeout
        self._function = _find(self._name)

    async def tell(self, records: Sequence[Record]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                for record in records:
                    await self._call(record)
        except Exception as error:
            raise TargetError(f"{self._name} raised {type(error).__name__}") from error

    async def _call(self, record: Record) -> None:
        if inspect.iscoroutinefunction(self._function):
            await self._function(record)
        else:
            await asyncio.to_thread(self._function, record)


def _find(path: str) -> Callable[[Record], Any]:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of anybody's may raise anything
        raise ConfigurationError([f"observability.events: {path} cannot be imported: {error}"]) from error
    if not callable(found):
        raise ConfigurationError([f"observability.events: {path} is no function"])
    return found  # type: ignore[no-any-return]
