"""Judges how available providers and models are: by their traffic first, by a probe where there was none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from scheduler.nodes import NobodyAliveError, NodeRefusedError, Nodes, NoNodeError
from shared_state.availability import (
    DomainHealth,
    Evidence,
    Health,
    Move,
    judge,
    keep_health,
    look,
    read_health,
    take_probe,
    take_traffic,
)
from shared_state.errors import ModelMeshError
from shared_state.recent import KEPT_MINUTES, Recent, read_recent
from shared_state.statistics import MinuteRow
from shared_state.store import Store
from shared_state.topology import DomainSpec, Topology

log = structlog.get_logger(__name__)

_PROBES_AT_ONCE: Final = 8
#: What the first look takes for recent.
_FIRST_MINUTES: Final = 2
_KEPT_INTERVALS: Final = 10
_KEPT_S: Final = 600.0
#: After this long a request may try a provider that probes have put out: the default of ``recovery.cooldown``.
_COOLDOWN_S: Final = 60.0
#: The provider has not answered, or not as a server that is well. All other codes are answers.
_ILL: Final = frozenset({"provider_unavailable", "provider_timeout", "provider_protocol"})
_WELL: Final = frozenset(
    {
        "models_not_listed",
        "provider_authentication",
        "provider_rate_limited",
        "provider_quota_exhausted",
    }
)


@dataclass(slots=True)
class _Round:
    """A domain at one look: the records before, and what they have become."""

    domain: DomainSpec
    before: DomainHealth
    providers: dict[str, Health]
    models: dict[str, Health]
    silent: list[str]
    now_s: float


class HealthMonitor:
    """Looks at all domains. Without it the state of providers follows their traffic alone."""

    def __init__(self, store: Store, topology: Topology, nodes: Nodes) -> None:
        self._store = store
        self._nodes = nodes
        self._rules = topology.config.discovery.health
        names = self._rules.providers
        self._watched = frozenset(p for p in topology.providers if not names or p in names)
        self._domains = [
            domain
            for domain in topology.domains.values()
            if any(provider.id in self._watched for provider in domain.providers)
        ]

    async def run(self, token: int) -> None:
        """One round.

        Raises:
            NoNodeError, NodeRefusedError: probes were wanted and no node has answered; who had traffic was judged all the same.
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        rounds = [await self._look(domain) for domain in self._domains]
        verdicts, failure = await self._probe([name for each in rounds for name in each.silent])
        for each in rounds:
            for name in each.silent:
                if (is_well := verdicts.get(name)) is not None:
                    each.providers[name] = take_probe(
                        each.providers[name], is_well=is_well, now_s=round(each.now_s, 3)
                    )
            await self._keep(each, token)
        if failure is not None and not isinstance(failure, NobodyAliveError):
            raise failure

    async def _look(self, domain: DomainSpec) -> _Round:
        """What the traffic since the last look says, and who had none."""
        before = await read_health(self._store, domain.id)
        owners = {model.id: model.provider for model in domain.models if model.provider in self._watched}
        recent = await self._read_since(domain.id, _oldest(before, owners))
        minute = int(recent.now_s // 60)
        providers, silent = {}, []
        for provider in (p.id for p in domain.providers if p.id in self._watched):
            rows = [row for row in recent.rows if owners.get(row.model) == provider]
            health, evidence = _after(before.providers.get(provider), rows, minute)
            providers[provider] = health
            if not any(evidence):
                silent.append(provider)
        models = {
            model: _after(before.models.get(model), [r for r in recent.rows if r.model == model], minute)[0]
            for model in owners
        }
        return _Round(domain, before, providers, models, silent, recent.now_s)

    async def _read_since(self, domain: str, oldest: int) -> Recent:
        """The minutes from that one on, 0 for the first look."""
        recent = await read_recent(self._store, [domain], minutes=_FIRST_MINUTES)
        if 0 < oldest < recent.first_minute:
            back = min(KEPT_MINUTES, int(recent.now_s // 60) - oldest + 1)
            return await read_recent(self._store, [domain], minutes=back)
        return recent

    async def _probe(self, providers: Sequence[str]) -> tuple[Mapping[str, bool], ModelMeshError | None]:
        """Whether each is well; absent where nobody could say."""
        gate = asyncio.Semaphore(_PROBES_AT_ONCE)
        failures: list[ModelMeshError] = []

        async def probe(provider: str) -> bool | None:
            async with gate:
                try:
                    answer = await self._nodes.get(
                        f"providers/{provider}/models", timeout_s=self._rules.timeout
                    )
                except (NoNodeError, NodeRefusedError) as error:
                    failures.append(error)
                    return None
            if answer.status == 200 or answer.code in _WELL:
                return True
            return False if answer.code in _ILL else None

        found = await asyncio.gather(*map(probe, providers))
        verdicts = {
            name: verdict for name, verdict in zip(providers, found, strict=True) if verdict is not None
        }
        return verdicts, failures[0] if failures else None

    async def _keep(self, each: _Round, token: int) -> None:
        threshold = self._rules.failure_threshold
        judged = replace(
            each.before,
            providers={name: judge(health, threshold=threshold) for name, health in each.providers.items()},
            models={name: judge(health, threshold=threshold) for name, health in each.models.items()},
        )
        changed = [
            name
            for name, health in judged.providers.items()
            if health.status != each.before.providers.get(name, Health()).status
        ]
        kept = await keep_health(
            self._store,
            each.domain.id,
            judged,
            token=token,
            kept_s=max(_KEPT_S, _KEPT_INTERVALS * self._rules.interval),
            changed=changed,
            moves=_moves(judged, threshold),
            cooldown_s=_COOLDOWN_S,
            gone=[
                *(f"p:{name}" for name in each.before.providers if name not in judged.providers),
                *(f"m:{name}" for name in each.before.models if name not in judged.models),
            ],
        )
        for name in changed if kept else ():
            health = judged.providers[name]
            log.info(
                "provider health", provider=name, status=str(health.status), score=round(health.score, 3)
            )


def _oldest(before: DomainHealth, owners: Mapping[str, str]) -> int:
    """The earliest minute that somebody who is watched still has to look at; 0 if nobody was looked at before."""
    known = [before.models[model] for model in owners if model in before.models]
    known += [before.providers[name] for name in set(owners.values()) if name in before.providers]
    return min((health.minute for health in known), default=0)


def _after(before: Health | None, rows: Sequence[MinuteRow], minute: int) -> tuple[Health, Evidence]:
    health, evidence = look(before or Health(), rows, minute=minute)
    return take_traffic(health, evidence), evidence


def _moves(judged: DomainHealth, threshold: int) -> list[Move]:
    """Who goes out by the probes that failed, and again after as many more, for an operator may have brought it back meanwhile;
    who was put out so and is well comes back."""
    out = [
        Move(name, "out")
        for name, health in judged.providers.items()
        if health.fails and health.fails % threshold == 0
    ]
    back = [
        Move(name, "back")
        for name in sorted(judged.put_out)
        if name in judged.providers and not judged.providers[name].fails
    ]
    return out + back
