"""Many callers on several nodes race for every kind of window: exactly the limit passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from shared_state.ledger import Code, Settlement, Verdict
from tests.redis.ground import (
    BIG,
    EPOCH_MS,
    SMALL,
    Caller,
    Outcome,
    SteeredStore,
    admitted,
    make_domain,
    make_pool,
)

Fleet = Callable[..., list[Caller]]
LIMIT = 23
NODES = 4


async def race(callers: list[Caller], count: int, model: str = SMALL, **options: object) -> list[Verdict]:
    """`count` asks over all callers, in batches of one to five, all at once."""
    batches, left = [], count
    while left:
        size = min(left, random.randint(1, 5))
        batches.append(random.choice(callers).admit_many(size, model, **options))
        left -= size
    return [verdict for batch in await asyncio.gather(*batches) for verdict in batch]


@pytest.mark.parametrize("scope", ["account", "small"])
@pytest.mark.parametrize("window", ["rpm", "rph", "rpd", "rpw", "rpM", "concurrency"])
async def test_exactly_the_limit_of_requests_passes(fleet: Fleet, scope: str, window: str) -> None:
    """Whoever is refused learns which window it was."""
    callers = fleet(NODES, make_domain(**{scope: {window: LIMIT}}))
    verdicts = await race(callers, 3 * LIMIT)

    assert admitted(verdicts) == LIMIT
    assert {(v.code, v.name) for v in verdicts if v.code} == {(Code.AT_LIMIT, window)}
    assert (await callers[0].books()).is_balanced


@pytest.mark.parametrize("scope", ["account", "small"])
@pytest.mark.parametrize("window", ["tpm", "tph", "tpd", "tpw", "tpM"])
async def test_exactly_the_limit_of_tokens_passes(fleet: Fleet, scope: str, window: str) -> None:
    """Input and output are reserved together; the rest that fits nobody stays."""
    callers = fleet(NODES, make_domain(**{scope: {window: 1000}}))
    verdicts = await race(callers, 60, tokens=(30, 20))

    assert admitted(verdicts) == 1000 // 50
    assert {(v.code, v.name) for v in verdicts if v.code} == {(Code.AT_LIMIT, window)}


@pytest.mark.parametrize("scope", ["account", "small"])
async def test_one_call_passes_within_the_least_distance(fleet: Fleet, scope: str) -> None:
    """Spacing lets a single caller through, and tells the others when to come again."""
    callers = fleet(NODES, make_domain(**{scope: {"min_delta": "60s"}}))
    verdicts = await race(callers, 40)

    assert admitted(verdicts) == 1
    assert {v.name for v in verdicts if v.code} == {"min_delta"}
    assert len({v.at_ms for v in verdicts if v.code}) == 1


async def test_calls_stay_apart_by_the_least_distance(fleet: Fleet) -> None:
    """Asking again at the time that was named is what passes."""
    callers = fleet(2, make_domain(small={"min_delta": "30ms"}))
    passed_ms: list[int] = []

    async def insist(caller: Caller) -> None:
        while len(passed_ms) < 6:
            _, verdict = await caller.admit()
            if not verdict.code:
                passed_ms.append(caller.clock.now_ms())
            else:
                await asyncio.sleep(max(0, verdict.at_ms - caller.clock.now_ms()) / 1000)

    await asyncio.gather(*map(insist, callers))
    slack_ms = 3  # the time of a reply is read at the caller, a little after the server wrote it
    assert all(b - a >= 30 - slack_ms for a, b in zip(passed_ms, passed_ms[1:], strict=False))


async def test_two_models_share_the_windows_of_their_account(fleet: Fleet) -> None:
    """The sum of both never exceeds the account's limit, whoever is faster."""
    callers = fleet(NODES, make_domain(account={"rpm": LIMIT, "tpd": 100_000}))
    both = await asyncio.gather(race(callers, 2 * LIMIT, SMALL), race(callers, 2 * LIMIT, BIG))

    assert sum(map(admitted, both)) == LIMIT
    used = await callers[0].used()
    assert used["", "rpm"][0] == LIMIT


async def test_the_smallest_of_all_windows_decides(fleet: Fleet) -> None:
    """Each model has its own limit below the account's; every window holds."""
    callers = fleet(
        NODES, make_domain(account={"rpm": 20, "concurrency": 18}, small={"rpd": 7}, big={"rph": 14})
    )
    small, big = await asyncio.gather(race(callers, 40, SMALL), race(callers, 40, BIG))

    assert admitted(small) <= 7
    assert admitted(big) <= 14
    assert admitted(small) + admitted(big) == 18


async def test_a_refusal_consumes_nothing_anywhere(fleet: Fleet) -> None:
    """Account and model are reserved together or not at all."""
    callers = fleet(NODES, make_domain(account={"rpm": 100, "tpm": 100_000}, small={"rph": 10, "tpd": 5000}))
    verdicts = await race(callers, 80, tokens=(10, 10))
    used = {name: amount for name, (amount, _) in (await callers[0].used()).items()}

    assert admitted(verdicts) == 10
    assert used == {("", "rpm"): 10, ("", "tpm"): 200, (SMALL, "rph"): 10, (SMALL, "tpd"): 200}
    books = await callers[0].books()
    assert [(row.admitted, row.in_flight) for row in books.rows] == [(10, 10)]


async def test_slots_that_come_back_are_given_out_again_once(fleet: Fleet) -> None:
    """Under constant turnover never more than the limit is in flight, and nothing gets lost."""
    callers, pool = fleet(NODES, make_domain(small={"concurrency": 5})), make_pool()
    in_flight = most = served = 0

    async def work(caller: Caller) -> None:
        nonlocal in_flight, most, served
        for _ in range(25):
            reservation, verdict = await caller.admit()
            if verdict.code:
                assert (verdict.code, verdict.name) == (Code.AT_LIMIT, "concurrency")
                continue
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0)
            in_flight -= 1
            assert await caller.settle(reservation, pool=pool)
            served += 1

    await asyncio.gather(*(work(caller) for caller in callers * 3))
    (row,) = (await callers[0].books()).rows

    assert 0 < most <= 5
    assert (row.admitted, row.settled, row.in_flight) == (served, served, 0)


async def test_a_resent_ask_is_admitted_once(fleet: Fleet) -> None:
    """The first reply was lost: another try, over another connection and many at a time, takes no second share."""
    callers = fleet(NODES, make_domain(small={"rpm": 10, "concurrency": 10}))
    first = callers[0].ask()
    await callers[0].ledger.admit([first])
    again = [caller.ask(reservation=first.reservation, resent=True) for caller in callers]
    replies = await asyncio.gather(*(c.ledger.admit([ask]) for c, ask in zip(callers, again, strict=True)))

    assert [admitted(reply) for reply in replies] == [1] * NODES
    used = await callers[0].used()
    assert (used[SMALL, "rpm"][0], used[SMALL, "concurrency"][0]) == (1, 1)
    assert [row.admitted for row in (await callers[0].books()).rows] == [1]


async def test_a_settlement_that_races_with_itself_counts_once(fleet: Fleet) -> None:
    """A replay from the outbox may meet the first try, also within one batch."""
    callers, pool = fleet(NODES, make_domain(small={"tpd": 1000})), make_pool()
    reservation, _ = await callers[0].admit(tokens=(100, 100))
    settlement = Settlement(reservation, SMALL, pool, Outcome.SUCCESS, tokens_in=50, tokens_out=0)
    replies = await asyncio.gather(*(caller.ledger.settle([settlement, settlement]) for caller in callers))

    assert sum(map(sum, replies)) == 1
    assert (await callers[0].used())[SMALL, "tpd"][0] == 50
    assert (await callers[0].books()).is_balanced


async def test_a_batch_is_judged_in_its_order(fleet: Fleet) -> None:
    """What does not fit is passed over, what still fits behind it is let in."""
    (caller,) = fleet(1, make_domain(small={"tpm": 100}))
    sizes = (60, 50, 30, 20, 10)
    verdicts = await caller.ledger.admit([caller.ask(tokens=(size, 0)) for size in sizes])

    assert [not verdict.code for verdict in verdicts] == [True, False, True, False, True]


async def test_what_can_never_fit_is_told_apart(fleet: Fleet) -> None:
    """Waiting does not help a request that is larger than the limit itself."""
    (caller,) = fleet(1, make_domain(account={"rpm": 1}, small={"tpm": 100}))
    await caller.admit(tokens=(10, 0))
    _, verdict = await caller.admit(tokens=(101, 0))

    assert verdict == Verdict(Code.TOO_LARGE, -1, "tpm")


async def test_a_limit_without_room_names_its_calendar(steered: SteeredStore) -> None:
    """The day of the account's own zone ends at its own midnight."""
    caller = Caller(steered, make_domain(small={"rpd": 1, "timezone": "America/Los_Angeles"}))
    await caller.admit()
    _, verdict = await caller.admit()

    assert verdict == Verdict(Code.AT_LIMIT, EPOCH_MS + 23 * 3_600_000, "rpd")  # it is 1 o'clock there
    await steered.set_time(verdict.at_ms - 1)
    assert (await caller.admit())[1] == verdict
    await steered.set_time(verdict.at_ms)
    assert not (await caller.admit())[1].code
