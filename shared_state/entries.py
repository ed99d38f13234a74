"""What travels between a node and a domain's scripts: asks, verdicts, settlements, wishes, and how a batch of them is packed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import ormsgpack

from shared_state.config import PoolConfig

#: Largest batch of one script call: bounds how long the server is busy with it.
MAX_BATCH: Final = 256


class Note(IntEnum):
    """How a batch was received as a whole."""

    FINE = 0
    STALE = 1
    UNASSERTED = 2
    HELD = 3
    STALE_CALENDAR = 4


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

#: Flags of a pool's rules, as in ``lua/exchange.lua``.
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
    """Asks or settlements as they travel: each entry names its group, and each group its model, by its place among `models`, from 1.

    Attributes:
        rules: of settlements, the pools' rules that groups name by their place.
    """

    models: tuple[str, ...]
    packed: bytes
    rules: bytes = b""


#: An entry by itself, apart from its batch. The model stands in its first place, a group's head in the places before the numbers.
Entry = list[Any]
#: Places in a group of asks: model, pool, lease ms, how, resent, then sums. Places that an ask takes in the flat list of them.
_ASK_HEAD: Final = 5
_ASK_STRIDE: Final = 5
#: Of settlements: model, policy, pool.
_SETTLEMENT_HEAD: Final = 3
_SETTLEMENT_STRIDE: Final = 10


def pack_asks(asks: Sequence[Ask], models: tuple[str, ...] = ()) -> Batch:
    """A batch for ``exchange.lua``.

    Args:
        models: all that travel along; by default those that are asked for.
    """
    models = models or distinct(ask.model for ask in asks)
    index = {model: i for i, model in enumerate(models, 1)}
    groups: dict[tuple[str, str, int, int, bool], list[Any]] = {}
    flat: list[Any] = []
    for ask in asks:
        key = (ask.model, ask.pool, ask.lease_ms, ask.how, ask.resent)
        group = groups.get(key)
        if group is None:
            head = [index[ask.model], ask.pool, ask.lease_ms, int(ask.how), int(ask.resent)]
            group = groups[key] = [*head, 0, 0, 0, 0, len(groups) + 1]
        group[5] += 1
        group[6] += ask.tokens_in
        group[7] += ask.tokens_out
        group[8] += ask.cost_nano
        flat += (group[9], ask.reservation, ask.tokens_in, ask.tokens_out, ask.cost_nano)
    return Batch(models, ormsgpack.packb((list(groups.values()), flat)))


def pack_settlements(settlements: Sequence[Settlement], models: tuple[str, ...] = ()) -> Batch:
    """A batch for ``exchange.lua``.

    Args:
        models: all that travel along; by default those of the settlements.
    """
    models = models or distinct(s.model for s in settlements)
    index = {model: i for i, model in enumerate(models, 1)}
    policies: dict[int, tuple[int, PoolConfig]] = {}
    groups: dict[tuple[str, int, str], int] = {}
    heads: list[tuple[int, int, str]] = []
    flat: list[Any] = []
    aside: list[Any] = []
    for place, s in enumerate(settlements, 1):
        key = (s.model, id(s.pool), s.pool_id)
        group = groups.get(key)
        if group is None:
            policy, _ = policies.setdefault(id(s.pool), (len(policies) + 1, s.pool))
            heads.append((index[s.model], policy, s.pool_id))
            group = groups[key] = len(heads)
        flat += (s.reservation, group, int(s.outcome), s.tokens_in, s.tokens_out, s.cost_nano)
        flat += (s.latency_ms, s.first_token_ms, s.flags, s.dispatch_delay_ms)
        if s.retry_after_ms or s.learned:
            aside.append((place, s.retry_after_ms, plain(s.learned)))
    return Batch(
        models,
        ormsgpack.packb((heads, flat, aside)),
        ormsgpack.packb([_policy(pool) for _, pool in policies.values()]),
    )


def pack_wishes(wishes: Sequence[LeaseWish]) -> tuple[tuple[str, ...], bytes]:
    """The models that are wished for, and the wishes for ``renew_leases.lua``."""
    models = distinct(wish.model for wish in wishes)
    index = {model: i for i, model in enumerate(models, 1)}
    packed = [
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
    return models, ormsgpack.packb(packed)


def unpack_asks(packed: bytes) -> list[Entry]:
    """The asks of a batch, each by itself: model, pool, lease ms, how, resent, reservation, tokens in, tokens out, cost."""
    groups, flat = ormsgpack.unpackb(packed)
    return [
        [*groups[flat[at] - 1][:_ASK_HEAD], *flat[at + 1 : at + _ASK_STRIDE]]
        for at in range(0, len(flat), _ASK_STRIDE)
    ]


def join_asks(entries: Iterable[Entry]) -> bytes:
    """What `unpack_asks` took apart, packed again."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    flat: list[Any] = []
    for entry in entries:
        head = tuple(entry[:_ASK_HEAD])
        group = groups.setdefault(head, [*head, 0, 0, 0, 0, len(groups) + 1])
        for place, amount in enumerate((1, *entry[_ASK_HEAD + 1 :]), _ASK_HEAD):
            group[place] += amount
        flat += (group[-1], *entry[_ASK_HEAD:])
    return ormsgpack.packb((list(groups.values()), flat))


def unpack_settlements(packed: bytes) -> list[Entry]:
    """The settlements of a batch, each by itself: model, policy, pool, reservation, outcome and so on, then what stands aside."""
    groups, flat, aside = ormsgpack.unpackb(packed)
    entries = []
    for at in range(0, len(flat), _SETTLEMENT_STRIDE):
        reservation, group, *rest = flat[at : at + _SETTLEMENT_STRIDE]
        entries.append([*groups[group - 1], reservation, *rest, ()])
    for place, *said in aside:
        entries[place - 1][-1] = said
    return entries


def join_settlements(entries: Iterable[Entry]) -> bytes:
    """What `unpack_settlements` took apart, packed again."""
    groups: dict[tuple[Any, ...], int] = {}
    flat: list[Any] = []
    aside: list[Any] = []
    for place, entry in enumerate(entries, 1):
        group = groups.setdefault(tuple(entry[:_SETTLEMENT_HEAD]), len(groups) + 1)
        reservation, *rest, said = entry[_SETTLEMENT_HEAD:]
        flat += (reservation, group, *rest)
        if said:
            aside.append((place, *said))
    return ormsgpack.packb((list(groups), flat, aside))


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
