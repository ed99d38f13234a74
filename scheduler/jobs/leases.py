"""Ends leases that nobody renews: what a node may have spent of them is charged in full."""

from __future__ import annotations

from typing import Final

from scheduler.contact import read_server_time_s
from shared_state.clock import ServerClock
from shared_state.directory import Directory
from shared_state.domains import next_lease_ends
from shared_state.ledger import DomainLedger
from shared_state.logs import get_logger
from shared_state.store import Store
from shared_state.topology import DomainSpec

log = get_logger(__name__)

_SIGNATURE: Final = "scheduler"


class LeaseEnder:
    """Looks for leases past their end."""

    def __init__(self, store: Store, domains: Directory) -> None:
        self._store = store
        self._domains = domains
        self._clock = ServerClock()
        self._ledgers: dict[str, DomainLedger] = {}

    async def run(self, token: int) -> None:
        """One look at every domain.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        now_ms = await read_server_time_s(self._store) * 1000
        domains = await self._domains.limited()
        for domain, end_ms in (await next_lease_ends(self._store, list(domains))).items():
            if end_ms <= now_ms:
                ended = await self._ledger(domains[domain]).end_leases(token=token)
                log.warning("leases ended", domain=domain, ended=ended)

    def _ledger(self, domain: DomainSpec) -> DomainLedger:
        """Built when it is first needed: most keys never leave a lease behind."""
        ledger = self._ledgers.get(domain.id)
        if ledger is None:
            ledger = self._ledgers[domain.id] = DomainLedger(
                self._store, domain, node=_SIGNATURE, clock=self._clock
            )
        return ledger
