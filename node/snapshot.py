"""This node's view of the shared state: routing reads it without a round trip.

Events and the epochs in replies say when a domain has changed; then the domain is read again, whole. Without any hint every domain
is checked once a second. When Redis is away the last view stays; so it does when the server is another one, until this node has asserted what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from node.watch import StoreWatch
from shared_state.assertion import Standby
from shared_state.clock import ServerClock
from shared_state.cursors import read_currents
from shared_state.domains import read_domain, read_pulses
from shared_state.events import Event
from shared_state.ledger import DomainLedger
from shared_state.state import ACTIVE, DomainState, EntityState, Status
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import ModelSpec, PoolSpec, Topology

_POLL_S: Final = 1.0


class Snapshot:
    """States of all domains and pointers of the sticky pools, as last read."""

    def __init__(self, store: Store, topology: Topology, watch: StoreWatch, *, clock: ServerClock) -> None:
        self.topology = topology
        self.clock = clock
        self.current: dict[str, str] = {}
        self.is_complete = asyncio.Event()
        self._store = store
        self._watch = watch
        self._domains = {name: DomainState() for name in topology.domains}
        self._sticky = [pool.id for pool in topology.pools.values() if _is_sticky(pool)]
        self._wanted: set[str] = set()
        self._ledgers: Mapping[str, DomainLedger] = {}
        self._wake = asyncio.Event()
        watch.on_return(self.refresh_all)

    def succeed(self, topology: Topology) -> Snapshot:
        """The view of another configuration: it begins with what is known here, and shares the pointers."""
        heir = Snapshot(self._store, topology, self._watch, clock=self.clock)
        heir.current = self.current
        heir._domains |= {name: state for name, state in self._domains.items() if name in heir._domains}
        return heir

    def close(self) -> None:
        """Nobody looks at it any more."""
        self._watch.forget(self.refresh_all)

    def model(self, spec: ModelSpec) -> EntityState:
        """A model's state."""
        return self._domains[spec.domain].models.get(spec.id, ACTIVE)

    def provider(self, spec: ModelSpec) -> EntityState:
        """The state of the account that a model runs on."""
        return self._domains[spec.domain].providers.get(spec.provider, ACTIVE)

    def provider_state(self, domain: str, provider: str) -> EntityState:
        """The state of an account."""
        return self._domains[domain].providers.get(provider, ACTIVE)

    def is_active(self, spec: ModelSpec) -> bool:
        """Whether a model and its account both take traffic."""
        return self.model(spec).status == self.provider(spec).status == Status.ACTIVE

    def epoch(self, domain: str) -> int:
        """The epoch of the last read, -1 before the first."""
        return self._domains[domain].epoch

    def epoch_of(self, model: str) -> int:
        """The epoch of a model's domain; -1 for a model that is not known."""
        spec = self.topology.models.get(model)
        return -1 if spec is None else self.epoch(spec.domain)

    def follow(self, ledgers: Mapping[str, DomainLedger]) -> None:
        """Takes over only what belongs to the term that these have asserted."""
        self._ledgers = ledgers

    def standbys(self, domain: str) -> list[Standby]:
        """What is known to be on standby; of those that come back by themselves, only who has still to wait."""
        state, now_ms = self._domains[domain], self.clock.now_ms()
        return [
            Standby(kind, name, entity.reason, entity.mode, entity.until_ms)
            for kind, entities in (("provider", state.providers), ("model", state.models))
            for name, entity in entities.items()
            if entity.status == Status.STANDBY and (entity.needs_trial(now_ms) or not entity.is_open(now_ms))
        ]

    def refresh(self, domain: str) -> None:
        """Reads a domain again."""
        self._want(domain)

    def observe_epoch(self, domain: str, epoch: int) -> None:
        """Reads the domain again if a reply or event shows a different epoch than ours."""
        known = self._domains.get(domain)
        if known is not None and known.epoch != epoch:
            self._want(domain)

    def observe_event(self, event: Event) -> None:
        """An event is a hint that a domain has changed, or a pool's pointer."""
        if event.type == "model_rotated":
            self._wake.set()
        self.observe_epoch(event.domain, event.epoch)

    def refresh_all(self) -> None:
        """Reads everything again: hints may have been lost."""
        self._wanted.update(self._domains)
        self._wake.set()

    def _want(self, domain: str) -> None:
        self._wanted.add(domain)
        self._wake.set()

    async def run(self) -> None:
        """Keeps the view fresh until cancelled."""
        loop = asyncio.get_running_loop()
        next_poll = loop.time()
        while True:
            is_silent = False
            try:
                async with asyncio.timeout_at(next_poll):
                    await self._wake.wait()
            except TimeoutError:
                is_silent = True
            is_due = is_silent or loop.time() >= next_poll  # news of one domain must not starve the others
            if is_due:
                next_poll = loop.time() + _POLL_S
            if not self._watch.connected:
                self._wake.clear()
                continue
            try:
                await self._refresh(poll=is_due)
            except STORE_ERRORS as error:
                self._watch.report_failure(error)

    async def _refresh(self, *, poll: bool) -> None:
        if poll:
            for domain, pulse in (await read_pulses(self._store, list(self._domains))).items():
                known = self._domains[domain]
                if (known.epoch, known.term) != pulse[:2]:
                    self._wanted.add(domain)
                if domain in self._ledgers:
                    self._ledgers[domain].journal.copied_ms = pulse.copied_ms
        self._wake.clear()
        wanted, self._wanted = self._wanted, set()
        for domain in wanted:  # a failure loses the rest of them, but the return of Redis wants everything
            now_ms, state = await read_domain(self._store, self.topology.domains[domain])
            self.clock.observe(now_ms)
            if domain not in self._ledgers or self._ledgers[domain].observe_term(state.term):
                self._domains[domain] = state
        # Pools that a capability implies show up once they are used.
        pools = list({*self._sticky, *self.current})
        if pools:
            self.current.update(await read_currents(self._store, pools))
        self.is_complete.set()


def _is_sticky(pool: PoolSpec) -> bool:
    return any("stick-until-failure" in name for name in (pool.strategy, pool.config.fallback_strategy))
