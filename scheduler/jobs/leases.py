"""Ends leases that nobody renews: what a node may have spent of them is charged in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from scheduler.contact import read_server_time_s
from shared_state.clock import ServerClock
from shared_state.ledger import DomainLedger
from shared_state.store import Store
from shared_state.topology import DomainSpec

log = structlog.get_logger(__name__)

_SIGNATURE: Final = "scheduler"


class LeaseEnder:
    """Looks for leases past their end."""

    def __init__(self, store: Store, domains: Mapping[str, DomainSpec]) -> None:
        self._store = store
        clock = ServerClock()
        self._ledgers = [
            DomainLedger(store, domain, node=_SIGNATURE, clock=clock) for domain in domains.values()
        ]

    async def run(self, token: int) -> None:
        """One look at every domain.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        now_ms = await read_server_time_s(self._store) * 1000
        for ledger in self._ledgers:
            if await ledger.next_lease_end() <= now_ms:
                ended = await ledger.end_leases(token=token)
                log.warning("leases ended", domain=ledger.domain.id, ended=ended)
