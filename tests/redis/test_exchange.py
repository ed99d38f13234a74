"""An exchange: what ended gives room first, then what waits is admitted; a batch comes out as one by one would."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest

from shared_state.ledger import ESTIMATED, NOT_SENT, STREAM, UNKNOWN, Ask, Code, Outcome, Settlement
from shared_state.statistics import decode_minute, read_minute
from tests.redis.ground import BIG, DOMAIN, EPOCH_MS, SMALL, Bench, admitted, make_pool

OpenBench = Callable[..., Bench]
#: Two seconds before midnight.
LATE_MS = EPOCH_MS + (15 * 3600 - 2) * 1000
MINUTE = LATE_MS // 60_000
#: Usage that is known, so that attempts are alike.
USED = {"tokens_in": 7, "tokens_out": 0, "cost_nano": 0}


def end(b: Bench, reservation: str, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> Settlement:
    """The end of an attempt of the small model."""
    return Settlement(reservation, fields.pop("model", SMALL), fields.pop("pool", b.pool), outcome, **fields)


async def test_what_ends_makes_room_for_what_waits(bench: OpenBench) -> None:
    """One slot: it changes hands within one call."""
    b = bench(small={"concurrency": 1}, account={"concurrency": 1})
    first, _ = await b.admit()
    assert (await b.admit())[1].code is Code.AT_LIMIT
    verdicts, applied = await b.ledger.exchange([b.ask(), b.ask()], [end(b, first)])

    assert [verdict.code for verdict in verdicts] == [Code.ADMITTED, Code.AT_LIMIT]
    assert applied == [True]
    assert (await b.used())[SMALL, "concurrency"][0] == 1
    assert (await b.books()).is_balanced


async def test_a_failure_that_takes_a_model_out_is_seen_by_the_asks_beside_it(bench: OpenBench) -> None:
    """Nobody is sent to a model that has just said to wait."""
    b = bench()
    first, _ = await b.admit()
    limited = end(b, first, Outcome.RATE_LIMITED, retry_after_ms=7000)
    verdicts, _ = await b.ledger.exchange([b.ask(), b.ask(BIG)], [limited])

    assert [(verdict.code, verdict.at_ms) for verdict in verdicts] == [
        (Code.STANDBY, EPOCH_MS + 7000),
        (Code.ADMITTED, 0),
    ]
    assert b.ledger.epoch == await b.epoch()


async def test_what_was_settled_before_is_named_by_its_place(bench: OpenBench) -> None:
    """Also when one batch names a reservation twice, and when models mix."""
    b = bench()
    small, big = (await b.admit())[0], (await b.admit(BIG))[0]
    ends = [end(b, "nobody"), end(b, big, model=BIG), end(b, small), end(b, small), end(b, big, model=BIG)]
    _, applied = await b.ledger.exchange(None, ends)

    assert applied == [False, True, True, False, False]
    assert (await b.books()).is_balanced


async def test_a_reservation_that_a_batch_names_twice_is_charged_once(bench: OpenBench) -> None:
    """Between others that are like it."""
    b = bench(small={"tpm": 1000})
    names = [(await b.admit(tokens=(100, 0)))[0] for _ in range(3)]
    ends = [end(b, name, **USED) for name in (*names[:2], names[1], names[2])]
    _, applied = await b.ledger.exchange(None, ends)

    assert applied == [True, True, False, True]
    assert (await b.used())[SMALL, "tpm"][0] == 21
    assert (await b.books()).is_balanced


async def test_the_success_of_a_trial_is_seen_among_others(bench: OpenBench) -> None:
    """Those that were admitted before the model fell out prove nothing, the trial does."""
    b = bench(pool=make_pool(retry_limit=1, cooldown=10))
    old, broken = (await b.admit())[0], (await b.admit())[0]
    await b.end(broken, Outcome.FAILURE)
    await b.store.pass_time(10_000)
    trial, verdict = await b.admit()
    assert verdict.trial
    await b.ledger.exchange(None, [end(b, old, **USED), end(b, trial, **USED)])

    assert (await b.model()).status == "active"


async def test_what_one_of_many_like_it_has_learned_counts(bench: OpenBench) -> None:
    """A word of the provider about its limit, among answers without one."""
    b = bench(small={"rpm": 60})
    names = [(await b.admit())[0] for _ in range(3)]
    words = [[], [("rpm", 2, 1000)], []]
    ends = [end(b, name, learned=said, **USED) for name, said in zip(names, words, strict=True)]
    await b.ledger.exchange(None, ends)

    assert admitted(await b.admit_many(4)) == 2


async def test_asks_are_held_while_what_ended_is_settled(bench: OpenBench) -> None:
    """After a loss nobody is plainly admitted; what is given back is."""
    b = bench()
    first, _ = await b.admit()
    await b.store.client.hset(b.store.keys.domain(DOMAIN), "hold", EPOCH_MS + 500)
    (verdict,), applied = await b.ledger.exchange([b.ask()], [end(b, first)])

    assert (verdict.code, verdict.at_ms) == (Code.HELD, EPOCH_MS + 500)
    assert applied == [True]


async def test_a_part_that_is_late_does_not_keep_the_other(bench: OpenBench) -> None:
    """Each has its sequence: the one that is stale goes again under a younger one, once, and both are applied."""
    b = bench(small={"rpm": 9})
    first, _ = await b.admit()
    await b.store.client.hset(b.store.keys.sequences(DOMAIN), f"{b.node}\ts", 40)
    verdicts, applied = await b.ledger.exchange([b.ask()], [end(b, first)])

    assert ([verdict.code for verdict in verdicts], applied) == ([Code.ADMITTED], [True])
    assert b.ledger.sequences["settle"] == 41
    assert (await b.used())[SMALL, "rpm"][0] == 2


@pytest.mark.parametrize("limits", [{"rpm": 5}, {"tpm": 55}, {"concurrency": 5}])
async def test_as_many_of_a_batch_as_fit_are_admitted_in_their_order(
    bench: OpenBench, limits: dict[str, int]
) -> None:
    """All together are too many, so each is judged for itself."""
    b = bench(small=limits)
    verdicts = await b.ledger.admit([b.ask(tokens=(10, 1)) for _ in range(8)])

    assert [verdict.code for verdict in verdicts] == [Code.ADMITTED] * 5 + [Code.AT_LIMIT] * 3


@pytest.mark.parametrize("account", [{"rpm": 5}, {"tpm": 55}])
async def test_models_of_a_batch_share_what_the_account_has(
    bench: OpenBench, account: dict[str, int]
) -> None:
    """What would fit model by model does not fit together."""
    b = bench(account=account, small={"rpm": 4}, big={"rpm": 4})
    verdicts = await b.ledger.admit([b.ask(model, tokens=(10, 1)) for model in (SMALL, BIG) * 4])

    assert [verdict.code for verdict in verdicts] == [Code.ADMITTED] * 5 + [Code.AT_LIMIT] * 3


LIMITS: dict[str, Any] = {
    "rpm": 10_000,
    "tpm": 10_000_000,
    "tpd": 10_000_000,
    "usd_per_day": 1000.0,
    "otph": 10_000_000,
    "algorithms": {"tpm": "sliding", "otph": "token_bucket"},
}


OTHER_POOL = make_pool(error_window=30, retry_limit=50)


async def attempts(
    b: Bench, chance: random.Random, count: int, unusual: float
) -> list[tuple[Ask, dict[str, Any]]]:
    """Admits some, over time; what became of each. That share of all differs in more than its numbers."""

    def usually(value: int, *others: int) -> int:
        return chance.choice([value, *others]) if chance.random() < unusual else value

    found, common = [], chance.choice([0, ESTIMATED])
    for _ in range(count):
        ask = b.ask(
            chance.choice((SMALL, BIG)), tokens=(chance.randrange(90), chance.randrange(90)), reservation=""
        )
        ask.pool = "chat" if chance.random() > unusual / 2 else "other"
        await b.ledger.admit([ask])
        fields = {
            "model": ask.model,
            "outcome": Outcome(usually(Outcome.SUCCESS, Outcome.SUCCESS, Outcome.NEUTRAL, Outcome.FAILURE)),
            "tokens_in": usually(chance.randrange(120), UNKNOWN),
            "tokens_out": usually(chance.randrange(120), UNKNOWN),
            "cost_nano": usually(chance.randrange(2000), UNKNOWN),
            "latency_ms": chance.randrange(900),
            "first_token_ms": chance.randrange(90),
            "flags": usually(common, common, NOT_SENT, STREAM),
            "pool": b.pool if chance.random() > unusual / 2 else OTHER_POOL,
            "dispatch_delay_ms": chance.choice([0, 0, chance.randrange(1200)]),
        }
        found.append((ask, fields))
        await b.store.pass_time(chance.randrange(400))
    return found


async def facts(b: Bench) -> tuple[Any, list[float]]:
    """All that settlements leave (windows with their buckets, books, statistics), and apart from it the levels of buckets that drain."""
    keys, client = b.store.keys, b.store.client
    scopes = [await client.hgetall(keys.windows(DOMAIN, scope)) for scope in ("a", f"m:{SMALL}", f"m:{BIG}")]
    levels = [float(scope.pop(b"otph:sum")) for scope in scopes]
    minutes = [
        sorted((row.model, row.pool, sorted(row.metrics.items())) for row in found)
        for minute in range(MINUTE, MINUTE + 3)
        if (found := await read_minute(b.store, DOMAIN, minute))
    ]
    assert minutes
    return (scopes, (await b.books()).rows, minutes), levels


async def settle_by(
    way: str, b: Bench, namespace: str, seed: int, unusual: float
) -> tuple[Any, list[float], list[float]]:
    """The same attempts, settled in one batch or each by itself."""
    b.store.move_to(f"{namespace}-{way}")
    await b.store.set_time(LATE_MS)
    b = Bench(b.store, b.domain, pool=b.pool)
    b.clock.observe(LATE_MS)
    b.numbers = itertools.count(1)
    tried = await attempts(b, random.Random(seed), 20, unusual)
    ended = [end(b, ask.reservation, **fields) for ask, fields in tried]
    for batch in [ended] if way == "batch" else [[one] for one in ended]:
        _, applied = await b.ledger.exchange(None, batch)
        assert applied == [True] * len(batch)
    return *await facts(b), await speeds(b)


async def speeds(b: Bench) -> list[float]:
    """How fast the models are said to answer."""
    keys = (b.store.keys.model(DOMAIN, model) for model in (SMALL, BIG))
    return [
        float(raw or 0) for key in keys for raw in await b.store.client.hmget(key, "latency", "peak", "ttft")
    ]


@pytest.mark.parametrize("unusual", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_settles_as_one_by_one_would(
    bench: OpenBench, namespace: str, seed: int, unusual: float
) -> None:
    """Whatever was used, and however long it was on its way, also over the turn of a day; only a level that drains may end up higher."""
    b = bench(account=LIMITS, small=LIMITS, big=LIMITS)
    together, levels, speed = await settle_by("batch", b, namespace, seed, unusual)
    alone, levels_alone, speed_alone = await settle_by("singles", b, namespace, seed, unusual)

    assert together == alone
    assert speed == pytest.approx(speed_alone, abs=2)
    assert all(level >= lower for level, lower in zip(levels, levels_alone, strict=True))


def test_minutes_of_the_release_before_are_read_as_well() -> None:
    """A field for each metric there, one list here; both may stand in one minute."""
    raw = {b"m\tp\tattempts": b"2", b"m\tp": ormsgpack.packb([3, 1] + [0] * 21 + [4]), b"m\tq\tok": b"1"}
    rows = {row.pool: row.metrics for row in decode_minute(DOMAIN, MINUTE, raw)}

    assert rows == {"p": {"attempts": 5, "ok": 1, "latency_le_13": 4}, "q": {"ok": 1}}
