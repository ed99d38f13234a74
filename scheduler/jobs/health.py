"""Judges how available providers and models are: by their traffic first, by a probe where there was none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.jobs.checkups import Checkups, Findings, Patient
from scheduler.nodes import NobodyAliveError, Nodes
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
from shared_state.logs import get_logger
from shared_state.recent import KEPT_MINUTES, Recent, read_recent
from shared_state.rotation.probing import is_dear
from shared_state.statistics import MinuteRow
from shared_state.store import Store
from shared_state.topology import DomainSpec, ModelSpec, Topology

log = get_logger(__name__)

#: What the first look takes for recent.
_FIRST_MINUTES: Final = 2
_KEPT_INTERVALS: Final = 10
_KEPT_S: Final = 600.0
#: After this long a request may try a provider that probes have put out: the default of ``recovery.cooldown``.
_COOLDOWN_S: Final = 60.0


@dataclass(slots=True)
class _Round:
    """A domain at one look: the records before, and what they have become."""

    domain: DomainSpec
    before: DomainHealth
    providers: dict[str, Health]
    models: dict[str, Health]
    patients: list[Patient]
    now_s: float


class HealthMonitor:
    """Looks at all domains. Without it the state of providers follows their traffic alone."""

    def __init__(self, store: Store, topology: Topology, nodes: Nodes) -> None:
        self._store = store
        self._rules = topology.config.discovery.health
        self._checkups = Checkups(nodes, self._rules)
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
        findings, failure = await self._checkups.look(
            [patient for each in rounds for patient in each.patients]
        )
        for each in rounds:
            for patient in each.patients:
                _take(each, patient.provider, findings[patient.provider])
            await self._keep(each, token)
        if failure is not None and not isinstance(failure, NobodyAliveError):
            raise failure

    async def _look(self, domain: DomainSpec) -> _Round:
        """What the traffic since the last look says, and who had none."""
        before = await read_health(self._store, domain.id)
        owners = {model.id: model.provider for model in domain.models if model.provider in self._watched}
        recent = await self._read_since(domain.id, _oldest(before, owners))
        minute = int(recent.now_s // 60)
        models = {
            model: _after(before.models.get(model), [r for r in recent.rows if r.model == model], minute)
            for model in owners
        }
        providers, patients = {}, []
        for provider in (p.id for p in domain.providers if p.id in self._watched):
            rows = [row for row in recent.rows if owners.get(row.model) == provider]
            health, evidence = _after(before.providers.get(provider), rows, minute)
            providers[provider] = health
            own = sorted(
                (model for model in domain.models if model.provider == provider and not is_dear(model)),
                key=_price,
            )
            silent = [model.id for model in own if not any(models[model.id][1])]
            patients.append(Patient(provider, not any(evidence), own, silent))
        return _Round(
            domain,
            before,
            providers,
            {model: health for model, (health, _) in models.items()},
            list(filter(self._checkups.wants, patients)),
            recent.now_s,
        )

    async def _read_since(self, domain: str, oldest: int) -> Recent:
        """The minutes from that one on, 0 for the first look."""
        recent = await read_recent(self._store, [domain], minutes=_FIRST_MINUTES)
        if 0 < oldest < recent.first_minute:
            back = min(KEPT_MINUTES, int(recent.now_s // 60) - oldest + 1)
            return await read_recent(self._store, [domain], minutes=back)
        return recent

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
            gone=_gone(each.before, judged),
        )
        for name in changed if kept else ():
            health = judged.providers[name]
            log.info(
                "provider health", provider=name, status=str(health.status), score=round(health.score, 3)
            )


def _gone(before: DomainHealth, judged: DomainHealth) -> list[str]:
    """Who is watched no more."""
    return [
        *(f"p:{name}" for name in before.providers if name not in judged.providers),
        *(f"m:{name}" for name in before.models if name not in judged.models),
    ]


def _oldest(before: DomainHealth, owners: Mapping[str, str]) -> int:
    """The earliest minute that somebody who is watched still has to look at; 0 if nobody was looked at before."""
    known = [before.models[model] for model in owners if model in before.models]
    known += [before.providers[name] for name in set(owners.values()) if name in before.providers]
    return min((health.minute for health in known), default=0)


def _after(before: Health | None, rows: Sequence[MinuteRow], minute: int) -> tuple[Health, Evidence]:
    health, evidence = look(before or Health(), rows, minute=minute)
    return take_traffic(health, evidence), evidence


def _take(each: _Round, provider: str, findings: Findings) -> None:
    """What probes have shown, of a provider and of its models; the statistics will hold them too, and must not say it again."""
    now_s = round(each.now_s, 3)
    if findings.is_well is not None:
        each.providers[provider] = take_probe(each.providers[provider], is_well=findings.is_well, now_s=now_s)
    each.providers[provider] = replace(
        each.providers[provider], own_ok=sum(findings.ok.values()), own_bad=sum(findings.bad.values())
    )
    for model in {*findings.models, *findings.ok, *findings.bad}:
        health = each.models[model]
        if (is_well := findings.models.get(model)) is not None:
            health = take_probe(health, is_well=is_well, now_s=now_s)
        each.models[model] = replace(
            health, own_ok=findings.ok.get(model, 0), own_bad=findings.bad.get(model, 0)
        )


def _price(model: ModelSpec) -> float:
    pricing = model.config.pricing
    return pricing.input + pricing.output + pricing.per_request


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
