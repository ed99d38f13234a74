"""Secrets that change while a node runs: read again now and then, and put to work as a generation of their own.

What runs goes on where a store is away or a new value makes no sense; that is told once. Stores whose content is settled with the process are not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from node.following import Follower
from shared_state.blueprints import Blueprints
from shared_state.errors import ConfigurationError, SecretStoreError
from shared_state.events import Event
from shared_state.logs import get_logger
from shared_state.state import Reason
from shared_state.store import STORE_ERRORS
from shared_state.topology import Topology

log = get_logger(__name__)

_APART_S: Final = 5.0  # between two readings: a burst of events is no reason to ask a vault more often
_LONGEST_WAIT_S: Final = 30.0  # then it is looked up whether the interval is another one by now
_BACK: Final = frozenset({"provider_activated", "provider_ready", "provider_trial"})


class SecretRenewal:
    """One node's.

    Args:
        current: what the node runs.
        draw: from 0 to 1; nodes that were started together do not ask together.
        apart_s: the least time between two readings.
    """

    def __init__(
        self,
        blueprints: Blueprints,
        follower: Follower,
        *,
        current: Callable[[], Topology],
        draw: Callable[[], float],
        apart_s: float = _APART_S,
    ) -> None:
        self._blueprints = blueprints
        self._follower = follower
        self._current = current
        self._draw = draw
        self._apart_s = apart_s
        self._wake = asyncio.Event()
        self._known: tuple[Topology, bytes] | None = None
        self._told = ""

    def hurry(self) -> None:
        """Has the secrets read soon."""
        self._wake.set()

    def observe_event(self, event: Event) -> None:
        """A key was refused, or a provider comes back."""
        is_reason = event.reason == Reason.AUTH or event.type in _BACK
        if is_reason and self._current().config.secrets.reload_on_rotation:
            self._wake.set()

    async def run(self) -> None:
        """Reads until cancelled."""
        await self._follower.looked.wait()
        while True:
            await self._pause()
            self._wake.clear()
            await self._look_and_tell()
            await asyncio.sleep(self._apart_s)

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        started, stretch = loop.time(), 0.9 + 0.2 * self._draw()
        while not self._wake.is_set():
            ttl_s = self._current().config.secrets.cache_ttl
            left_s = started + ttl_s * stretch - loop.time() if ttl_s else _LONGEST_WAIT_S
            if left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LONGEST_WAIT_S)):
                    await self._wake.wait()

    async def _look_and_tell(self) -> None:
        fault = ""
        try:
            await self._look()
        except (ConfigurationError, SecretStoreError) as error:
            fault = error.message
        except STORE_ERRORS:
            self._known, fault = None, "the shared state is away"
        if fault and fault != self._told:
            log.warning("the secrets cannot be renewed, what runs goes on", fault=fault)
        self._told = fault

    async def _look(self) -> None:
        running, topology = self._follower.running, self._current()
        document = running.document if running is not None else self._blueprints.shared
        mark = await asyncio.to_thread(self._blueprints.mark_secrets, document)
        if mark is None or (self._known and self._known[0] is topology and self._known[1] == mark):
            return
        source = f"version {running.number}" if running is not None else self._blueprints.own.source
        self._known = topology, mark  # also of what makes no sense: it is judged once
        fresh = await self._blueprints.read(document, source=source)
        if fresh.config == topology.config:
            return
        if await self._follower.renew(running, fresh):
            log.info("secrets have changed", store=topology.config.secrets.store)
            self._known = self._current(), mark
