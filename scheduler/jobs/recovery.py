"""Brings back what is due: the cooldown is over, the quota's calendar has turned."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from shared_state.domains import recover_due
from shared_state.store import Store

log = structlog.get_logger(__name__)


class Recovery:
    """Walks the due lists of all quota domains.

    Without it models come back all the same, for nodes treat an overdue one as ready; but nobody announces it.
    """

    def __init__(self, store: Store, domains: Sequence[str]) -> None:
        self._store = store
        self._domains = domains

    async def run(self, token: int) -> None:
        """One walk.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away; what is due stays due.
        """
        for domain in self._domains:
            for due, how in await recover_due(self._store, domain, token=token):
                kind, _, name = due.partition(":")
                log.info(
                    "recovery", domain=domain, kind="model" if kind == "m" else "provider", id=name, how=how
                )
