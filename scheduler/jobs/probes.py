"""Has nodes probe what waits for a trial and gets no requests. One scheduler leads, and Redis grants one trial: there is one prober."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from scheduler.nodes import Nodes, NoNodeError
from scheduler.pulses import Follower, Pulses
from shared_state.domains import read_domain
from shared_state.logs import get_logger
from shared_state.rotation.probing import interval_of, is_probed_on_start, is_waiting, waits_since_ms
from shared_state.state import ACTIVE, DomainState, EntityState, Status
from shared_state.store import Store
from shared_state.topology import DomainSpec, ModelSpec, Topology

log = get_logger(__name__)

_AT_ONCE: Final = 8
_AGAIN_MS: Final = 5_000


class _Probe(NamedTuple):
    """One to be sent; ``about`` is the entity in question, an account only once whatever its models."""

    model: str
    about: str
    is_startup: bool


class Probes:
    """Watches the states of all domains.

    Args:
        nodes: who sends the probes.
    """

    def __init__(self, store: Store, topology: Topology, nodes: Nodes, pulses: Pulses) -> None:
        self._store = store
        self._domains = topology.domains
        self._nodes = nodes
        self._follower = Follower(pulses)
        #: Domains in which somebody rests; the others are read when they have changed.
        self._resting: set[str] = set()
        self._intervals_ms = {
            model.id: round(interval_of(model, topology) * 1000) for model in topology.models.values()
        }
        self._on_start = {
            model.id for model in topology.models.values() if is_probed_on_start(model, topology)
        }
        self._token = 0
        self._owed: set[str] = set()
        self._last_ms: dict[str, int] = {}

    async def run(self, token: int) -> None:
        """One look at everything, and a probe for whatever is due.

        Raises:
            NodeRefusedError: nodes do not accept our token, or do not know how to probe.
            RedisError, OSError, TimeoutError: the store is away; what is due stays due.
        """
        if token != self._token:  # the lead is new
            self._token, self._owed = token, set(self._on_start)
            self._follower.doubt_all()
        due: dict[str, _Probe] = {}
        for name in dict.fromkeys([*await self._follower.changed(), *self._resting]):
            now_ms, state = await read_domain(self._store, self._domains[name])
            self._follower.note([name])
            (self._resting.add if _has_resting(state) else self._resting.discard)(name)
            for probe in self._due(self._domains[name], state, now_ms):
                if len(due) < _AT_ONCE and due.setdefault(probe.about, probe) is probe:
                    self._last_ms[probe.about] = now_ms
        results = await asyncio.gather(*map(self._send, due.values()), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                raise error

    def _due(self, domain: DomainSpec, state: DomainState, now_ms: int) -> Iterator[_Probe]:
        for model in domain.models:
            own, account = state.models.get(model.id, ACTIVE), state.providers.get(model.provider, ACTIVE)
            if not is_waiting((own, account), now_ms):
                if own.status == account.status == Status.ACTIVE:
                    self._owed.discard(model.id)
                continue
            about = _about(model, account)
            if model.id in self._owed and now_ms - self._last_ms.get(about, 0) >= _AGAIN_MS:
                yield _Probe(model.id, about, is_startup=True)
            elif self._is_overdue(model.id, about, waits_since_ms((own, account)), now_ms):
                yield _Probe(model.id, about, is_startup=False)

    def _is_overdue(self, model: str, about: str, since_ms: int, now_ms: int) -> bool:
        interval_ms = self._intervals_ms[model]
        return interval_ms > 0 and now_ms - max(since_ms, self._last_ms.get(about, 0)) >= interval_ms

    async def _send(self, probe: _Probe) -> None:
        path = f"models/{quote(probe.model, safe='/')}/probe"
        try:
            said = await self._nodes.post(path, {"startup": probe.is_startup})
        except NoNodeError:
            self._last_ms.pop(probe.about, None)  # it comes back to this when somebody is there
            return
        self._owed.discard(probe.model)
        log.info(
            "probe", model=probe.model, **{key: said.get(key) for key in ("verdict", "latency_ms", "code")}
        )


def _has_resting(state: DomainState) -> bool:
    return any(e.status != Status.ACTIVE for e in (*state.models.values(), *state.providers.values()))


def _about(model: ModelSpec, account: EntityState) -> str:
    return f"m:{model.id}" if account.status == Status.ACTIVE else f"p:{model.provider}"
