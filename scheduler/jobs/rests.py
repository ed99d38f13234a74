"""Ends standbys of spent money and caps as soon as the configuration has room for another call: nobody waits for a reset that is not needed."""

from __future__ import annotations

import math

from scheduler.pulses import Follower, Pulses
from shared_state.domains import Kind, lift_rests, next_recoveries, read_domain
from shared_state.logs import get_logger
from shared_state.state import DomainState, Mode, Status
from shared_state.store import Store
from shared_state.topology import Topology

log = get_logger(__name__)


class Rests:
    """Judges again, by this scheduler's configuration, whatever is on standby.

    It looks at a domain when a state in it has changed, not only once: a node that does not run the version yet may settle a call by the
    limits before, and put on standby again what was lifted. Without it a standby ends with the calendar.
    """

    def __init__(self, store: Store, topology: Topology, pulses: Pulses) -> None:
        self._store = store
        self._domains = topology.domains
        self._follower = Follower(pulses)

    async def run(self, token: int) -> None:
        """One look.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away; what has room is found at the next look.
        """
        changed = await self._follower.changed()
        # What comes back with a calendar is on the due list until then: one round trip finds the domains that have any.
        for name, due_ms in (await next_recoveries(self._store, changed)).items():
            if math.isfinite(due_ms):
                await self._look(name, token)
            self._follower.note([name])

    async def _look(self, name: str, token: int) -> None:
        domain = self._domains[name]
        now_ms, state = await read_domain(self._store, domain)
        resting = _resting(state)
        if not resting:
            return
        for kind, entity in await lift_rests(self._store, domain, resting, token=token, now_ms=now_ms):
            log.info("there is room again", domain=name, kind=kind, id=entity)


def _resting(state: DomainState) -> list[tuple[Kind, str]]:
    """What is on standby by nobody's order."""
    models: list[tuple[Kind, str]] = [
        ("model", name)
        for name, model in state.models.items()
        if model.status == Status.STANDBY and model.mode != Mode.MANUAL
    ]
    providers: list[tuple[Kind, str]] = [
        ("provider", name)
        for name, provider in state.providers.items()
        if provider.status == Status.STANDBY and provider.mode != Mode.MANUAL
    ]
    return [*models, *providers]
