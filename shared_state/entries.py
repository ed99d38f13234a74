"""What travels between a node and a domain's scripts: asks, verdicts, settlements, wishes, and how a batch of them is packed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import ormsgpack

from shared_state.config import PoolConfig

#: Largest batch of one script call: bounds how long the server is busy with it.
MAX_BATCH: Final = 256


class Code(IntEnum):
    """Answer to one request for admission."""

    ADMITTED = 0
    AT_LIMIT = 1
    STANDBY = 2
    TOO_LARGE = 3
    STALE_CALENDAR = 4
    TRIAL_TAKEN = 5
    STORE_AWAY = 6
    HELD = 7


class How(IntEnum):
    """How an ask treats the state of its model and account; the numbers are those of ``lua/include/entities.lua``.

    Attributes:
        DESPITE: goes past an error threshold or an outage, for the pool has nobody better; it is no trial.
        PROBE: a trial that does not wait for its time.
    """

    NORMAL = 0
    DESPITE = 1
    PROBE = 2
    STARTUP_PROBE = 3


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
STREAM: Final = 64
UNKNOWN: Final = -1

#: Flags of a pool's rules, as in ``lua/settle.lua``.
_AUTH_TAKES_ACCOUNT, _OUTAGE_TAKES_ACCOUNT, _ACCOUNT_IS_MANUAL, _QUOTA_IS_MANUAL = 1, 2, 4, 8


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
    how: How = How.NORMAL


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


class Batch(NamedTuple):
    """Asks or settlements as they travel: each entry names its model by its place among `models`, from 1.

    Attributes:
        rules: of settlements, the pools' rules that entries name by their place.
    """

    models: tuple[str, ...]
    packed: bytes
    rules: bytes = b""


def pack_asks(asks: Sequence[Ask]) -> Batch:
    """A batch for ``admit.lua``."""
    models = distinct(ask.model for ask in asks)
    index = {model: i for i, model in enumerate(models, 1)}
    entries = [
        (
            ask.reservation,
            index[ask.model],
            ask.pool,
            ask.tokens_in,
            ask.tokens_out,
            ask.cost_nano,
            ask.lease_ms,
            1 if ask.resent else 0,
            int(ask.how),
        )
        for ask in asks
    ]
    return Batch(models, ormsgpack.packb(entries))


def pack_settlements(settlements: Sequence[Settlement]) -> Batch:
    """A batch for ``settle.lua``."""
    models = distinct(s.model for s in settlements)
    index = {model: i for i, model in enumerate(models, 1)}
    policies: dict[int, tuple[int, PoolConfig]] = {}
    for s in settlements:
        policies.setdefault(id(s.pool), (len(policies) + 1, s.pool))
    entries = [
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
            plain(s.learned),
        )
        for s in settlements
    ]
    return Batch(
        models,
        ormsgpack.packb(entries),
        ormsgpack.packb([_policy(pool) for _, pool in policies.values()]),
    )


def plain(learned: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Words about limits as the packer takes them: it refuses tuples that have names."""
    return [(window, remaining, reset_ms) for window, remaining, reset_ms in learned]


def distinct(models: Iterable[str]) -> tuple[str, ...]:
    """Each model once, in order."""
    return tuple(sorted(set(models)))


def _policy(pool: PoolConfig) -> tuple[int, float, int, int, int, int, int, int]:
    rules, recovery = pool.deactivation, pool.recovery
    flags = (
        (pool.provider_deactivation != "on_api_outage") * _AUTH_TAKES_ACCOUNT
        + (pool.provider_deactivation != "on_auth_failure") * _OUTAGE_TAKES_ACCOUNT
        + (pool.provider_recovery == "on_manual") * _ACCOUNT_IS_MANUAL
        + (not recovery.on_quota_reset) * _QUOTA_IS_MANUAL
    )
    return (
        rules.retry_limit,
        rules.error_rate_threshold,
        round(rules.error_window * 1000),
        rules.error_min_requests,
        round(recovery.cooldown * 1000),
        round(recovery.max_cooldown * 1000),
        len(recovery.ramp),
        flags,
    )
