"""The ASGI lifespan of an application, in one task of its own, with a deadline on its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import ASGIApp, Message

_log = logging.getLogger(__name__)


class Lifespan:
    """Runs ``lifespan.startup`` and ``lifespan.shutdown`` of an application, which must support them.

    Attributes:
        state: what the application put into ``scope["state"]`` at its start; each request gets a copy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._shutdown = asyncio.Event()
        self._received = False

    async def start(self) -> None:
        """Return when the application is ready.

        Raises:
            RuntimeError: the application reported ``lifespan.startup.failed``, or ended without a word.
            Exception: whatever the application raised while starting.
        """
        self._started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="lifespan")
        try:
            await asyncio.wait({self._task, self._started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._started.done():
            self._started.result()
        else:
            self._task.result()
            raise RuntimeError("the application ended its lifespan without lifespan.startup.complete")

    async def stop(self, timeout_s: float) -> None:
        """Let the application shut down; after ``timeout_s`` it is cancelled. A failure is logged, not raised."""
        if self._task is None:
            return
        self._shutdown.set()
        await asyncio.wait({self._task}, timeout=timeout_s)
        if not self._task.done():
            _log.error("the application's shutdown took longer than %.1f s and is cancelled", timeout_s)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()):
            _log.error("the application's shutdown failed", exc_info=error)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        assert self._started is not None
        match message["type"]:
            case "lifespan.startup.complete" if not self._started.done():
                self._started.set_result(None)
            case "lifespan.startup.failed" if not self._started.done():
                self._started.set_exception(
                    RuntimeError(message.get("message") or "the application failed to start")
                )
            case "lifespan.shutdown.failed":
                _log.error("the application reports a failed shutdown: %s", message.get("message", ""))
