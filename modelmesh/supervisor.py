"""The supervisor: starts groups of services in order, ends them in the opposite order, obeys signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from modelmesh.children import Service

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs services until a signal; the first one ends them in good order, the second one at once.

    Args:
        groups: in the order in which they start, each made when its turn comes, so that it may build on
            those before it. The members of a group start, and end, together.
    """

    def __init__(self, groups: Sequence[Callable[[], Sequence[Service]]]) -> None:
        self._groups = groups
        self._started: list[Sequence[Service]] = []
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()

    async def run(self, *, when_ready: Callable[[], None]) -> None:
        """Start everything, call `when_ready`, return when all has ended after a signal.

        Raises:
            ModelMeshError: a service cannot be started; those before it have been ended again.
        """
        with self._signals():
            try:
                if await _unless(self._stop, self._start()):
                    when_ready()
                    await self._stop.wait()
            finally:
                if not await _unless(self._abort, self._end()):
                    await self._end_now()

    async def _start(self) -> None:
        for make_group in self._groups:
            group = make_group()
            self._started.append(group)
            await asyncio.gather(*(service.start() for service in group))
            await asyncio.gather(*(service.wait_ready() for service in group))

    async def _end(self) -> None:
        for group in reversed(self._started):
            await asyncio.gather(*(service.stop() for service in group))

    async def _end_now(self) -> None:
        for group in reversed(self._started):
            await asyncio.gather(*(service.end_now() for service in group))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._obey)
        try:
            yield
        finally:
            for number in _STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _obey(self) -> None:
        if self._stop.is_set():
            self._abort.set()
        self._stop.set()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless the event comes first; whether it was finished."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.wait({working, waiting})
