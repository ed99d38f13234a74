"""Forgets what nobody will ask for again: the sequences of nodes that are gone, the libraries of releases that have been replaced."""

from __future__ import annotations

from shared_state.directory import Directory
from shared_state.domains import forget_nodes, read_nodes_on_record
from shared_state.logs import get_logger
from shared_state.registry import Registry
from shared_state.store import Store

log = get_logger(__name__)


class Sweep:
    """Looks for nodes that have a sequence and are not registered, and for libraries that are not of this release.

    A node is forgotten when two looks in a row have missed it: what it sent last must have arrived, and a registry that was lost
    must have had the time to fill again.
    """

    def __init__(self, store: Store, domains: Directory) -> None:
        self._store = store
        self._domains = domains
        self._registry = Registry(store)
        self._missed: dict[str, set[str]] = {}

    async def run(self, token: int) -> None:
        """One look at every domain and every server.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        on_records = await read_nodes_on_record(self._store, await self._domains.ids())
        registered = {node.info.id for node in await self._registry.nodes()}
        for domain, on_record in on_records.items():
            missing = on_record - registered
            gone = missing & self._missed.get(domain, set())
            if gone:
                await forget_nodes(self._store, domain, gone, token=token)
                log.info("nodes forgotten", domain=domain, nodes=len(gone))
            self._missed[domain] = missing - gone
        if forgotten := await self._store.forget_libraries():
            log.info("libraries forgotten", libraries=forgotten)
