"""Buries dead nodes: what they had reserved is booked as abandoned, then they leave the registry."""

from __future__ import annotations

from scheduler.contact import Contact, read_server_time_s
from shared_state.directory import Directory
from shared_state.domains import abandon_of_nodes
from shared_state.logs import get_logger
from shared_state.registry import NODE_LEASE_S, Registry
from shared_state.store import Store

log = get_logger(__name__)


class Reaper:
    """Looks for nodes whose lease ran out.

    A node is declared dead only after we ourselves have had steady contact for a whole node lease: after a frozen store, or a
    sleep of our own, every node looks dead until it has had the time for a heartbeat.
    """

    def __init__(self, store: Store, domains: Directory, *, contact: Contact) -> None:
        self._store = store
        self._registry = Registry(store)
        self._domains = domains
        self._contact = contact

    async def run(self, token: int) -> None:
        """One look; a crash half-way is made good by the next, for a node leaves last.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        dead = await self._dead_nodes()
        self._contact.observe(await read_server_time_s(self._store))
        if not dead or self._contact.steady_s < NODE_LEASE_S:
            return
        abandoned = 0
        for domain in await self._domains.ids():
            abandoned += await abandon_of_nodes(self._store, domain, dead, token=token)
        for node in dead & await self._dead_nodes():  # not the one that has just woken up
            await self._registry.leave(node)
        log.warning("nodes are dead", nodes=sorted(dead), abandoned=abandoned)

    async def _dead_nodes(self) -> set[str]:
        return {node.info.id for node in await self._registry.nodes() if node.is_dead}
