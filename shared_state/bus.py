"""The subscriber's side of the events: reconnects by itself and says when it may have missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared_state.connections import close_client
from shared_state.events import Event, decode_event
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_POLL_S: Final = 1.0
_PING_EVERY_S: Final = 5.0
_RECONNECT_S: Final = 0.2


class Bus:
    """Listens to the cluster's events.

    Args:
        on_event: called for each event; must not block.
        on_gap: called after every (re)subscription, for events may have been lost before it.
    """

    def __init__(
        self, store: Store, *, on_event: Callable[[Event], None], on_gap: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_event = on_event
        self._on_gap = on_gap
        self.connected = False

    async def run(self) -> None:
        """Listens until cancelled; a lost connection is made again every 200 ms."""
        while True:
            try:
                await self._listen()
            except STORE_ERRORS as error:
                if self.connected:
                    log.warning("event bus lost", error=str(error))
                self.connected = False
                await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        client = self._store.subscriber(timeout_s=_PING_EVERY_S)
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(self._store.keys.channel)
            await self._receive(pubsub)
        finally:
            self.connected = False
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            await close_client(client)

    async def _receive(self, pubsub: object) -> None:
        """Reads for ever; a connection that answers neither messages nor pings within a few seconds counts as lost."""
        loop = asyncio.get_running_loop()
        heard = pinged = loop.time()
        while True:
            message = await pubsub.get_message(timeout=_POLL_S)  # type: ignore[attr-defined]
            now = loop.time()
            if message is not None:
                heard = now
                self._handle(message)
            elif now - heard > 3 * _PING_EVERY_S:
                raise TimeoutError("the event connection is silent")
            if now - pinged > _PING_EVERY_S:
                pinged = now
                await pubsub.ping()  # type: ignore[attr-defined]

    def _handle(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self.connected = True
            self._on_gap()
        elif message["type"] == "message":
            event = decode_event(bytes(message["data"]))  # type: ignore[call-overload]
            if event is not None:
                self._on_event(event)
