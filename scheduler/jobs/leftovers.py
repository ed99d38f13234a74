"""Deletes what is left in Redis of domains, providers and models that no configuration has had for long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from scheduler.contact import read_server_time_s
from scheduler.jobs.flush import Flush
from shared_state.books import read_books
from shared_state.leftovers import End, Item, drop_known, forget, items_of, note_known, read_known
from shared_state.logs import get_logger
from shared_state.registry import Registry
from shared_state.store import Store
from shared_state.topology import Topology

log = get_logger(__name__)

#: A run ends after so many, the next one goes on.
_MOST: Final = 200


class Leftovers:
    """Notes what the configuration has, and deletes what none has had for the time of grace.

    While a node runs another configuration than this scheduler's, everything that is known counts as in use: whose it is cannot be told.
    What is in flight, held as a lease, not stored durably or off in the books stays until it is settled.
    """

    def __init__(self, store: Store, topology: Topology, flush: Flush) -> None:
        self._store = store
        self._version = topology.version
        self._configured = items_of(topology)
        self._grace_ms = round(topology.config.scheduler.forget_after * 1000)
        self._flush = flush
        self._registry = Registry(store)

    async def run(self, token: int) -> None:
        """One look.

        Raises:
            FencedOffError: another scheduler leads.
            SinkError: the sink refuses the statistics of what is to go; it stays.
            RedisError, OSError, TimeoutError: the store is away.
        """
        known = await read_known(self._store)
        now_ms = round(await read_server_time_s(self._store) * 1000)
        in_use = self._configured if await self._is_agreed() else {*self._configured, *known}
        await note_known(self._store, in_use, now_ms=now_ms)
        if not self._grace_ms:
            return
        old = {item: at for item, at in known.items() if item not in in_use and now_ms - at >= self._grace_ms}
        await self._forget(old, known, token)

    async def _is_agreed(self) -> bool:
        """Whether every node that lives runs this scheduler's configuration."""
        nodes = await self._registry.nodes()
        return all(node.info.config_version == self._version for node in nodes if not node.is_dead)

    async def _forget(self, old: Mapping[Item, int], known: Mapping[Item, int], token: int) -> None:
        """What is in a domain that is not configured either goes with it, and not before."""
        gone = 0
        for item in sorted(old):
            within: list[Item] = []
            if item.kind == "domain":
                within = [other for other in known if other.domain == item.domain and other != item]
                if not await self._is_settled(item.domain):
                    continue
            elif Item("domain", item.domain, item.domain) not in self._configured:
                continue
            if await forget(self._store, item, within, token=token) is End.GONE:
                await drop_known(self._store, [item, *within])
                log.info("forgotten", kind=item.kind, domain=item.domain, id=item.id)
                gone += 1
            if gone >= _MOST:
                break

    async def _is_settled(self, domain: str) -> bool:
        """Stores the statistics of a domain; whether its books balance."""
        await self._flush.carry(domain)
        return (await read_books(self._store, domain)).is_balanced
