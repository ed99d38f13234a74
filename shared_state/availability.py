"""How available providers and models are: a moving average of what went well, judged by pure functions, kept in Redis.

Evidence is passive first: attempts of ordinary traffic, each counted once. Where there was none, a probe counts. Each attempt
moves the average by a tenth of its distance, one look by half of it at most; a probe moves it by three tenths. It begins at 1.
A rate limit or a spent quota is no outage: whoever refuses so is there, but has not shown that it works either. It is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal, NamedTuple

import orjson
import ormsgpack

from shared_state.errors import FencedOffError
from shared_state.statistics import MinuteRow
from shared_state.store import Store

ATTEMPT_WEIGHT: Final = 0.1
MOST_OF_ONE_LOOK: Final = 0.5
PROBE_WEIGHT: Final = 0.3
DEGRADED_BELOW: Final = 0.9
UNAVAILABLE_BELOW: Final = 0.5
#: So far above its threshold a score must be for a better status, else one that hovers there would be news all the time.
_MARGIN: Final = 0.03


class HealthStatus(StrEnum):
    """What a score comes to."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Health:
    """How available a provider or a model is, and what of its statistics was looked at.

    Attributes:
        score: from 0 to 1.
        fails: probes in a row that failed.
        probed: server time (unix seconds) of the last probe with a verdict; None before the first.
        minute, ok, bad: the latest minute that was looked at, and what it held then.
        own_ok, own_bad: attempts of our own probes that the statistics will hold at the next look.
    """

    score: float = 1.0
    status: str = HealthStatus.HEALTHY
    fails: int = 0
    probed: float | None = None
    minute: int = 0
    ok: int = 0
    bad: int = 0
    own_ok: int = 0
    own_bad: int = 0


class Evidence(NamedTuple):
    """Attempts since the last look."""

    ok: int = 0
    bad: int = 0


def look(health: Health, rows: Iterable[MinuteRow], *, minute: int) -> tuple[Health, Evidence]:
    """What the statistics hold that was not looked at before; neutral and limited attempts are no evidence, nor are our own probes.

    Args:
        rows: of this entity, from ``health.minute`` on.
        minute: the one that the server is in.
    """
    if minute < health.minute:  # another server, whose clock is behind
        return health, Evidence()
    ok = bad = last_ok = last_bad = 0
    for row in rows:
        if row.minute < health.minute:
            continue
        good = row.metrics.get("ok", 0)
        failed = row.metrics.get("failed", 0) - row.metrics.get("limited", 0)
        ok, bad = ok + good, bad + failed
        if row.minute == minute:
            last_ok, last_bad = last_ok + good, last_bad + failed
    evidence = Evidence(max(0, ok - health.ok - health.own_ok), max(0, bad - health.bad - health.own_bad))
    return replace(health, minute=minute, ok=last_ok, bad=last_bad, own_ok=0, own_bad=0), evidence


def take_traffic(health: Health, evidence: Evidence) -> Health:
    """The average after these attempts; one that went well ends a row of failed probes."""
    count = evidence.ok + evidence.bad
    if not count:
        return health
    weight = min(MOST_OF_ONE_LOOK, 1 - (1 - ATTEMPT_WEIGHT) ** count)
    return replace(
        health,
        score=_moved(health.score, evidence.ok / count, weight),
        fails=0 if evidence.ok else health.fails,
    )


def take_probe(health: Health, *, is_well: bool, now_s: float) -> Health:
    """The average after a probe."""
    return replace(
        health,
        score=_moved(health.score, 1.0 if is_well else 0.0, PROBE_WEIGHT),
        fails=0 if is_well else health.fails + 1,
        probed=now_s,
    )


def judge(health: Health, *, threshold: int) -> Health:
    """The status that belongs to the score; so many failed probes in a row are unavailable whatever it is."""
    return replace(health, status=_status(health, threshold))


def _status(health: Health, threshold: int) -> HealthStatus:
    margin_up = _MARGIN if health.status == HealthStatus.UNAVAILABLE else 0.0
    if health.fails >= threshold or health.score < UNAVAILABLE_BELOW + margin_up:
        return HealthStatus.UNAVAILABLE
    margin_up = 0.0 if health.status == HealthStatus.HEALTHY else _MARGIN
    return HealthStatus.DEGRADED if health.score < DEGRADED_BELOW + margin_up else HealthStatus.HEALTHY


def _moved(score: float, towards: float, weight: float) -> float:
    return min(1.0, max(0.0, score + weight * (towards - score)))


@dataclass(frozen=True, slots=True)
class DomainHealth:
    """The records of a domain.

    Attributes:
        round: how often it was judged; 0 for never.
        put_out: providers that failed probes have put on standby.
    """

    round: int = 0
    providers: dict[str, Health] = field(default_factory=dict)
    models: dict[str, Health] = field(default_factory=dict)
    put_out: frozenset[str] = frozenset()


class Move(NamedTuple):
    """A provider to be put on standby, or brought back from there."""

    provider: str
    direction: Literal["out", "back"]


async def read_health(store: Store, domain: str) -> DomainHealth:
    """What was judged last.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    raw: dict[bytes, bytes] = await store.command("HGETALL", store.keys.health(domain))
    fields = {name.decode(): value for name, value in raw.items()}
    return DomainHealth(
        round=int(fields.get("round", 0)),
        providers={name[2:]: _decode(value) for name, value in fields.items() if name.startswith("p:")},
        models={name[2:]: _decode(value) for name, value in fields.items() if name.startswith("m:")},
        put_out=frozenset(name[2:] for name in fields if name.startswith("o:")),
    )


async def keep_health(
    store: Store,
    domain: str,
    judged: DomainHealth,
    *,
    token: int,
    kept_s: float,
    changed: Sequence[str],
    moves: Sequence[Move],
    cooldown_s: float,
    gone: Sequence[str] = (),
) -> bool:
    """Keeps a round, which has the number of the one that it was judged by; False if another was kept since.

    Args:
        changed: providers whose new status is told.
        gone: fields, such as ``m:<model>``, of those that are watched no more.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; the round may have been kept.
    """
    records = {f"p:{name}": health for name, health in judged.providers.items()}
    records |= {f"m:{name}": health for name, health in judged.models.items()}
    told = [(name, judged.providers[name]) for name in changed]
    kept: int = await store.run(
        "keep_health",
        [store.keys.domain(domain)],
        [
            *(token, domain, store.keys.channel, judged.round, round(kept_s * 1000)),
            ormsgpack.packb(
                [[name, orjson.dumps(asdict(health)).decode()] for name, health in records.items()]
                + [[name, ""] for name in gone]
            ),
            ormsgpack.packb(
                [[name, str(health.status), round(health.score * 1000)] for name, health in told]
            ),
            ormsgpack.packb([list(move) for move in moves]),
            round(cooldown_s * 1000),
        ],
    )
    if kept < 0:
        raise FencedOffError(domain)
    return kept == 1


def _decode(raw: bytes) -> Health:
    """A record; what another release has added is passed over."""
    said = orjson.loads(raw)
    return Health(**{name: said[name] for name in Health.__dataclass_fields__ if name in said})
