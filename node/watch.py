"""Whether the shared state answers: one flag for the whole process, so that an outage costs one deadline and then nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_PROBE_EVERY_S: Final = 0.1


class StoreWatch:
    """Knows whether Redis is there; notices its return.

    Args:
        on_loss: ``leased``, ``open`` or ``closed``: the mode announced while Redis is away.
    """

    def __init__(self, store: Store, *, on_loss: str) -> None:
        self._store = store
        self._on_loss = on_loss
        self._lost = asyncio.Event()
        self._lost.set()
        self._returns: list[Callable[[], None]] = []
        self.connected = False
        self.losses = 0
        #: Domains in which plain admissions have to wait, for the server may have forgotten its last moments.
        self.held: set[str] = set()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def mode(self) -> str:
        """``exact`` while Redis answers and nothing is held, else what the deployment chose for its loss."""
        return "exact" if self.connected and not self.held else self._on_loss

    def on_return(self, callback: Callable[[], None]) -> None:
        """Registers what to do whenever Redis is back, the first time included."""
        self._returns.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Takes a registration back."""
        self._returns.remove(callback)

    def report_failure(self, error: BaseException) -> None:
        """A call failed or timed out: nobody else waits for Redis until a probe was answered."""
        if self.connected:
            self.connected = False
            self.losses += 1
            log.warning("shared state lost", mode=self._on_loss, error=f"{type(error).__name__}: {error}")
            self._lost.set()

    def hold(self, domain: str) -> None:
        """Plain admissions to a domain have to wait from now on."""
        self.held.add(domain)
        self._open.clear()

    def release(self, domain: str) -> None:
        """They need not any more."""
        self.held.discard(domain)
        if not self.held:
            self._open.set()

    async def until_open(self) -> None:
        """Waits until no domain is held: a matter of seconds, for every hold has its end."""
        await self._open.wait()

    async def run(self) -> None:
        """Probes while Redis is away, until cancelled."""
        while True:
            await self._lost.wait()
            if await self._answers():
                self._lost.clear()
                self.connected = True
                log.info("shared state connected", url=self._store.masked_url)
                for callback in list(self._returns):
                    callback()
            else:
                await asyncio.sleep(_PROBE_EVERY_S)

    async def _answers(self) -> bool:
        try:
            await self._store.ping()
        except STORE_ERRORS:
            return False
        return True
