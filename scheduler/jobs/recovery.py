"""Brings back what is due: the cooldown is over, the quota's calendar has turned."""

from __future__ import annotations

from scheduler.contact import read_server_time_s
from scheduler.pulses import Follower, Pulses
from shared_state.domains import next_recoveries, recover_due
from shared_state.logs import get_logger
from shared_state.store import Store

log = get_logger(__name__)


class Recovery:
    """Walks the due lists of all quota domains.

    Without it models come back all the same, for nodes treat an overdue one as ready; but nobody announces it. A due list changes only
    together with its domain's epoch, so what was read of it holds as long.
    """

    def __init__(self, store: Store, pulses: Pulses) -> None:
        self._store = store
        self._follower = Follower(pulses)
        self._domains = pulses.domains
        self._due_ms: dict[str, float] = {}
        self._token = 0

    async def run(self, token: int) -> None:
        """One walk.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away; what is due stays due.
        """
        if token != self._token:
            await self._begin(token)
        changed = await self._follower.changed()
        self._due_ms.update(await next_recoveries(self._store, changed))
        self._follower.note(changed)
        now_ms = await read_server_time_s(self._store) * 1000
        for domain in [domain for domain, due_ms in self._due_ms.items() if due_ms <= now_ms]:
            self._follower.doubt(domain)
            await self._recover(domain, token)

    async def _begin(self, token: int) -> None:
        """A new lead shows itself in every domain once, so that whoever led before finds the scripts closed."""
        for domain in self._domains:
            await self._recover(domain, token)
        self._token = token

    async def _recover(self, domain: str, token: int) -> None:
        for due, how in await recover_due(self._store, domain, token=token):
            kind, _, name = due.partition(":")
            log.info("recovery", domain=domain, kind="model" if kind == "m" else "provider", id=name, how=how)
