"""Begins maintenance windows: whoever asks for the state of a model then sees that it rests, why, and until when."""

from __future__ import annotations

from scheduler.contact import read_server_time_s
from shared_state.domains import maintain
from shared_state.logs import get_logger
from shared_state.rotation.maintenance import Calendars, due_rests
from shared_state.store import Store
from shared_state.topology import Topology

log = get_logger(__name__)


class Maintenance:
    """Follows the calendars of all models. Without it nodes obey them all the same, but nobody announces it."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._calendars = Calendars(topology)
        self._domains = [
            domain
            for domain in topology.domains.values()
            if any(model.id in self._calendars.of_models for model in domain.models)
        ]

    async def run(self, token: int) -> None:
        """One look at the calendars.

        Raises:
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away; what has begun is still running at the next look.
        """
        if not self._domains:
            return
        now_ms = round(await read_server_time_s(self._store) * 1000)
        for domain in self._domains:
            rests = [(model, *span) for model, span in due_rests(domain.models, self._calendars, now_ms)]
            if not rests:
                continue
            rested = await maintain(self._store, domain.id, rests, token=token)
            if rested:
                log.info("maintenance begins", domain=domain.id, models=[rest[0] for rest in rests])
