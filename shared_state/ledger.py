"""Admission and settlement of one quota domain: the typed side of ``admit.lua`` and ``settle.lua``.

Both take batches, for many callers share one round trip. When Redis is away both raise; whether the batch was applied is
then unknown, and sending it again with the same reservations is safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import ormsgpack

from shared_state.clock import ServerClock
from shared_state.config import PoolConfig
from shared_state.errors import FencedOffError
from shared_state.limits import windows_of
from shared_state.store import Argument, Store
from shared_state.topology import DomainSpec

#: Largest batch of one script call: bounds how long the server is busy with it.
MAX_BATCH: Final = 256
_TABLES_KEPT: Final = 256
_STALE_CALENDAR: Final = -2


class Code(IntEnum):
    """Answer to one request for admission."""

    ADMITTED = 0
    AT_LIMIT = 1
    STANDBY = 2
    TOO_LARGE = 3
    STALE_CALENDAR = 4
    TRIAL_TAKEN = 5
    STORE_AWAY = 6


class Outcome(IntEnum):
    """How an attempt ended, as the thresholds see it."""

    SUCCESS = 1
    FAILURE = 2
    NEUTRAL = 3
    RATE_LIMITED = 4
    CREDENTIALS = 5
    QUOTA = 6
    UNREACHABLE = 7


NOT_SENT: Final = 1
ESTIMATED: Final = 2
LEASED: Final = 4
UNKNOWN: Final = -1


class Amounts(NamedTuple):
    """Amounts in the five dimensions that windows count; cost in USD 1e-9."""

    requests: int = 0
    tokens: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_nano: int = 0


@dataclass(slots=True, frozen=True)
class LeaseWish:
    """What a node reports and wants for a model.

    Attributes:
        used: what was spent of the lease on calls that have ended since the last report.
        kept: what the node still holds and may spend meanwhile.
        requests: how many requests the new lease should cover.
        one: what one of them is expected to need.
        running: what was spent on calls that have not ended.
    """

    model: str
    used: Amounts
    kept: Amounts
    requests: int
    one: Amounts
    running: Amounts = Amounts()


@dataclass(slots=True)
class Ask:
    """One request for admission.

    Attributes:
        tokens_in: estimate of the prompt, erring upward.
        tokens_out: most tokens that may come back.
        cost_nano: most that it may cost, in USD 1e-9.
        lease_ms: after this long without settlement the reservation is abandoned.
        resent: an earlier try may have been applied.
    """

    reservation: str
    model: str
    pool: str
    tokens_in: int
    tokens_out: int
    cost_nano: int
    lease_ms: int
    resent: bool = False


@dataclass(slots=True, frozen=True)
class Verdict:
    """Answer to an ask.

    Attributes:
        at_ms: when it could succeed (server time); 0 unknown, -1 never.
        name: the window or the reason that refused.
        trial: admitted as the one trial of a recovering model.
        from_lease: admitted out of this node's own lease, which is smaller by that now.
        in_doubt: the store went away over it; it may have been admitted.
    """

    code: Code
    at_ms: int = 0
    name: str = ""
    trial: bool = False
    from_lease: bool = False
    in_doubt: bool = False


@dataclass(slots=True)
class Settlement:
    """End of an attempt. Token counts and cost of -1 are unknown: the reservation is charged in full.

    Attributes:
        learned: (window, remaining, reset ms) by the provider's own count, which wins when it is stricter.
    """

    reservation: str
    model: str
    pool: PoolConfig
    outcome: Outcome
    tokens_in: int = UNKNOWN
    tokens_out: int = UNKNOWN
    cost_nano: int = UNKNOWN
    latency_ms: int = 0
    first_token_ms: int = 0
    retry_after_ms: int = 0
    flags: int = 0
    dispatch_delay_ms: int = 0
    pool_id: str = ""
    learned: Sequence[tuple[str, int, int]] = ()


class DomainLedger:
    """Admits and settles on behalf of one node."""

    def __init__(self, store: Store, domain: DomainSpec, *, node: str, clock: ServerClock) -> None:
        self.domain = domain
        self.epoch = -1
        self._store = store
        self._node = node
        self._clock = clock
        self._key = store.keys.domain(domain.id)
        self._specs = {model.id: model for model in domain.models}
        self._account_limits = domain.providers[0].config.limits
        self._tables: dict[tuple[str, ...], bytes] = {}

    async def admit(self, asks: Sequence[Ask]) -> list[Verdict]:
        """Checks and reserves, each ask for itself, in the order given.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; asks may have been admitted.
        """
        reply = await self._admit(asks)
        if any(code == Code.STALE_CALENDAR for code in reply[3::4]):
            self._tables.clear()
            reply = await self._admit(asks)
        self.epoch = reply[1]
        verdicts = [_ADMITTED] * len(asks)
        for i in range(2, len(reply), 4):
            verdicts[reply[i] - 1] = _exception(*reply[i + 1 : i + 4])
        return verdicts

    async def _admit(self, asks: Sequence[Ask]) -> list[Any]:
        models = _distinct(ask.model for ask in asks)
        index = {model: i for i, model in enumerate(models, 1)}
        batch = [
            (
                ask.reservation,
                index[ask.model],
                ask.pool,
                ask.tokens_in,
                ask.tokens_out,
                ask.cost_nano,
                ask.lease_ms,
                1 if ask.resent else 0,
            )
            for ask in asks
        ]
        return await self._run("admit", self._table(models), ormsgpack.packb(batch), self._node)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Applies each settlement once; False for one whose reservation was settled or abandoned before.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; settlements may have been applied.
        """
        reply = await self._settle(settlements)
        if reply[1] < 0:
            self._tables.clear()
            reply = await self._settle(settlements)
        self.epoch = reply[1]
        unknown = set(reply[2:])
        return [place not in unknown for place in range(1, len(settlements) + 1)]

    async def _settle(self, settlements: Sequence[Settlement]) -> list[Any]:
        models = _distinct(s.model for s in settlements)
        index = {model: i for i, model in enumerate(models, 1)}
        policies: dict[int, tuple[int, PoolConfig]] = {}
        for s in settlements:
            policies.setdefault(id(s.pool), (len(policies) + 1, s.pool))
        batch = [
            (
                s.reservation,
                index[s.model],
                policies[id(s.pool)][0],
                int(s.outcome),
                s.tokens_in,
                s.tokens_out,
                s.cost_nano,
                s.latency_ms,
                s.first_token_ms,
                s.retry_after_ms,
                s.flags,
                s.dispatch_delay_ms,
                s.pool_id,
                s.learned,
            )
            for s in settlements
        ]
        rules = [_policy(pool) for _, pool in policies.values()]
        return await self._run(
            "settle", self._table(models), ormsgpack.packb(batch), self._node, ormsgpack.packb(rules)
        )

    async def renew_leases(
        self, wishes: Sequence[LeaseWish], *, sequence: int, life_ms: int, share: int
    ) -> list[Amounts]:
        """Reports on the node's leases and has them filled up; what they hold now, in the order of the wishes.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; sending the same sequence again is safe.
        """
        reply = await self._renew_leases(wishes, sequence, life_ms, share)
        if reply[1] < 0:
            self._tables.clear()
            reply = await self._renew_leases(wishes, sequence, life_ms, share)
        return [Amounts(*reply[i : i + 5]) for i in range(2, len(reply), 5)]

    async def _renew_leases(
        self, wishes: Sequence[LeaseWish], sequence: int, life_ms: int, share: int
    ) -> list[Any]:
        models = _distinct(wish.model for wish in wishes)
        index = {model: i for i, model in enumerate(models, 1)}
        batch = [
            (
                index[wish.model],
                tuple(wish.used),
                tuple(wish.kept),
                wish.requests,
                tuple(wish.one),
                tuple(wish.running),
            )
            for wish in wishes
        ]
        return await self._run(
            "renew_leases", self._table(models), self._node, sequence, life_ms, share, ormsgpack.packb(batch)
        )

    async def end_leases(self, *, token: int, most: int = 200) -> int:
        """Ends leases whose time is over, charged in full; how many.

        Raises:
            FencedOffError: another scheduler leads.
        """
        ended = await self._end_leases(token, most)
        if ended == _STALE_CALENDAR:
            self._tables.clear()
            ended = await self._end_leases(token, most)
        if ended < 0:
            raise FencedOffError(self.domain.id)
        return ended

    async def _end_leases(self, token: int, most: int) -> int:
        ended: int = await self._store.run(
            "end_leases", [self._key], [self._table(_distinct(self._specs)), token, most]
        )
        return ended

    async def next_lease_end(self) -> float:
        """When the first lease of the domain ends, in unix milliseconds; infinity if there is none."""
        first = await self._store.command(
            "ZRANGE", self._store.keys.leases(self.domain.id) + ":ends", 0, 0, "WITHSCORES"
        )
        return float(first[1]) if first else math.inf

    async def _run(self, script: str, *args: Argument) -> list[Any]:
        reply: list[Any] = await self._store.run(script, [self._key], args)
        self._clock.observe(reply[0])
        return reply

    def _table(self, models: tuple[str, ...]) -> bytes:
        table = self._tables.get(models)
        if table is None:
            if len(self._tables) >= _TABLES_KEPT:
                self._tables.clear()
            now_ms = self._clock.now_ms()
            specs = [self._specs[model] for model in models]
            table = self._tables[models] = ormsgpack.packb(
                (
                    self.domain.id,
                    self._store.keys.channel,
                    windows_of(self._account_limits, now_ms),
                    [(spec.id, spec.provider, windows_of(spec.config.limits, now_ms)) for spec in specs],
                )
            )
        return table


def _distinct(models: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(models)))


def _exception(code: int, at_ms: int, name: bytes) -> Verdict:
    if code == Code.ADMITTED:
        return _TRIAL if at_ms == 1 else _FROM_LEASE
    return Verdict(Code(code), at_ms, name.decode())


_ADMITTED: Final = Verdict(Code.ADMITTED)
_TRIAL: Final = Verdict(Code.ADMITTED, trial=True)
_FROM_LEASE: Final = Verdict(Code.ADMITTED, from_lease=True)


def _policy(pool: PoolConfig) -> tuple[int, float, int, int, int, int, int]:
    rules, recovery = pool.deactivation, pool.recovery
    return (
        rules.retry_limit,
        rules.error_rate_threshold,
        round(rules.error_window * 1000),
        rules.error_min_requests,
        round(recovery.cooldown * 1000),
        round(recovery.max_cooldown * 1000),
        len(recovery.ramp),
    )
