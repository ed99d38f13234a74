"""Leases: what a node holds for an outage counts against every window, and nothing of it is ever used twice."""

from __future__ import annotations

import pytest

from shared_state.errors import FencedOffError
from shared_state.ledger import LEASED, Amounts, Code, LeaseWish, Outcome
from tests.redis.ground import BIG, SMALL, Caller, make_domain, make_pool

NOTHING = Amounts()
ONE = Amounts(1, 100, 60, 40, 1000)
LIFE_MS = 60_000


def wish(
    requests: int,
    *,
    model: str = SMALL,
    used: Amounts = NOTHING,
    kept: Amounts = NOTHING,
    running: Amounts = NOTHING,
) -> LeaseWish:
    return LeaseWish(model, used, kept, requests, ONE, running)


def times(count: int) -> Amounts:
    return Amounts(*(count * amount for amount in ONE))


async def renew(bench, *wishes: LeaseWish, sequence: int, share: int = 1) -> list[Amounts]:
    return await bench.ledger.renew_leases(wishes, sequence=sequence, life_ms=LIFE_MS, share=share)


async def test_a_lease_takes_room_from_everybody(bench, steered):
    """What one node holds, another cannot be admitted to."""
    node = bench(small={"rpm": 10})
    other = Caller(steered, node.domain, node="n2")
    (held,) = await renew(node, wish(4), sequence=1)

    assert held == times(4)
    assert [v.code for v in await other.admit_many(10)] == [Code.ADMITTED] * 6 + [Code.AT_LIMIT] * 4


async def test_a_lease_is_a_share_of_what_remains(bench):
    """With N nodes no one may take more than its part, however much it wants; nothing remains, nothing is given."""
    node = bench(small={"rpm": 12}, account={"tpm": 100_000})
    (held,) = await renew(node, wish(100), sequence=1, share=4)

    assert held == times(3)
    await node.admit_many(9)
    assert await renew(node, wish(100, kept=NOTHING), sequence=2, share=4) == [NOTHING]


async def test_the_same_sequence_is_applied_once(bench):
    """A renewal whose answer was lost is sent again and changes nothing."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    spent = wish(4, used=times(2), kept=times(2))
    first = await renew(node, spent, sequence=2)
    again = await renew(node, spent, sequence=2)

    assert first == again == [times(4)]
    assert (await node.used())[SMALL, "rpm"][0] == 2


async def test_a_lease_never_falls_below_what_the_node_keeps(bench):
    """If the answer is lost, the node still spends what it kept: that must stay held."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    await node.admit_many(6)

    assert await renew(node, wish(4, kept=times(4)), sequence=2) == [times(4)]


async def test_what_was_spent_is_charged_now(bench, steered):
    """A use is reported late, so it counts from the report on: longer, never shorter."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    await steered.pass_time(30_000)
    await renew(node, wish(0, used=times(4)), sequence=2)
    await steered.pass_time(40_000)

    assert (await node.used())[SMALL, "rpm"][0] == 4


async def test_ones_own_lease_gives_way_to_ones_own_requests(bench):
    """When only leases stand in the way, the node's own is spent; the verdict says so, and all of the limit can be used."""
    node = bench(small={"rpm": 5})
    await renew(node, wish(2), sequence=1, share=2)
    verdicts = await node.admit_many(6, tokens=(60, 40))

    assert [v.code for v in verdicts] == [Code.ADMITTED] * 5 + [Code.AT_LIMIT]
    assert [v.from_lease for v in verdicts] == [False] * 3 + [True] * 2 + [False]


async def test_a_call_that_was_paid_in_advance_takes_its_slot_until_it_ends(bench, steered):
    """Reported as running it stays held, for others and for the node's own requests; when it has ended its slot is free."""
    node = bench(small={"concurrency": 5})
    other = Caller(steered, node.domain, node="n2")
    await renew(node, wish(3), sequence=1)
    running = wish(0, kept=times(1), running=times(2))
    (held,) = await renew(node, running, sequence=2)
    again = await renew(node, running, sequence=2)
    verdicts = await other.admit_many(5, tokens=(60, 40))
    own = await node.admit_many(5, tokens=(60, 40))
    await renew(node, wish(0, used=times(2)), sequence=3)

    assert again == [held] == [times(1)]
    assert [v.code for v in verdicts] == [Code.ADMITTED] * 2 + [Code.AT_LIMIT] * 3
    assert [v.from_lease for v in own] == [True] + [False] * 4
    assert [v.code for v in own[1:]] == [Code.AT_LIMIT] * 4
    assert [v.code for v in await other.admit_many(3)] == [Code.ADMITTED] * 2 + [Code.AT_LIMIT]


async def test_what_ran_counts_when_it_has_ended(bench):
    """Once, in the windows that count; held until then."""
    node = bench(small={"rpm": 5})
    await renew(node, wish(3), sequence=1)
    await renew(node, wish(0, running=times(3)), sequence=2)
    while_running = await node.admit_many(3)
    await renew(node, wish(0, used=times(1), running=times(2)), sequence=3)
    await renew(node, wish(0, used=times(2)), sequence=4)

    assert [v.code for v in while_running] == [Code.ADMITTED] * 2 + [Code.AT_LIMIT]
    assert (await node.used())[SMALL, "rpm"][0] == 5
    assert (await node.admit())[1].code is Code.AT_LIMIT


async def test_a_node_cannot_keep_more_than_it_had(bench, steered):
    """Nor anything of a lease that has ended: its end has charged what ran as well."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(3), sequence=1)
    await renew(node, wish(0, running=times(9), kept=times(9)), sequence=2)
    await steered.pass_time(LIFE_MS)
    await node.ledger.end_leases(token=1)
    used = (await node.used())[SMALL, "rpm"][0]
    await renew(node, wish(0, running=times(3)), sequence=3)

    assert used == 6
    assert len(await node.admit_many(4)) == 4
    assert (await node.admit())[1].code is Code.AT_LIMIT


async def test_the_account_counts_what_all_its_models_hold(bench):
    """A lease on one model takes the account's room from the others."""
    node = bench(account={"rpm": 6})
    await renew(node, wish(3), sequence=1, share=2)
    verdicts = await node.admit_many(6, BIG)

    assert [v.code for v in verdicts] == [Code.ADMITTED] * 3 + [Code.AT_LIMIT] * 3


async def test_a_lease_that_nobody_renews_is_charged_at_its_end(bench, steered):
    """Until then it stays held, even if its node seems dead; after that it counts like a use of that moment."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    assert await node.ledger.end_leases(token=1) == 0

    await steered.pass_time(LIFE_MS)
    assert await node.ledger.end_leases(token=1) == 1
    assert (await node.used())[SMALL, "rpm"][0] == 4
    await steered.pass_time(59_000)
    assert (await node.used())[SMALL, "rpm"][0] == 4

    # The node wakes up and reports: all of it was charged before.
    await renew(node, wish(0, used=times(4)), sequence=2)
    assert (await node.used())[SMALL, "rpm"][0] == 4


async def test_what_the_end_of_a_lease_charges_is_booked(bench, steered):
    """They may be calls whose node died before it could say so: admitted and abandoned, under no pool."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    await renew(node, wish(4, kept=times(2), running=times(1)), sequence=2)
    await steered.pass_time(LIFE_MS)
    await node.ledger.end_leases(token=1)
    await node.ledger.end_leases(token=1)
    books = await node.books()
    (row,) = books.rows

    assert books.is_balanced
    assert (row.model, row.pool, row.admitted, row.abandoned) == (SMALL, "", 5, 5)


async def test_a_scheduler_that_lost_the_lead_ends_no_lease(bench):
    """Its token is older than one that was seen."""
    node = bench(small={"rpm": 10})
    await node.ledger.end_leases(token=7)

    with pytest.raises(FencedOffError):
        await node.ledger.end_leases(token=6)


async def test_spacing_cannot_be_paid_in_advance(bench):
    """A least distance between calls leaves no lease."""
    node = bench(small={"rpm": 10, "min_delta": 1})

    assert await renew(node, wish(4), sequence=1) == [NOTHING]


async def test_an_attempt_admitted_without_redis_is_booked_once(bench):
    """It was never reserved: the settlement books it as admitted and settled, however often it comes."""
    node, pool = bench(small={"rpm": 10}), make_pool()
    fields = {
        "pool": pool,
        "flags": LEASED,
        "pool_id": "chat",
        "tokens_in": 5,
        "tokens_out": 5,
        "cost_nano": 0,
    }

    assert await node.settle("n1.away", Outcome.SUCCESS, **fields) is True
    assert await node.settle("n1.away", Outcome.SUCCESS, **fields) is False
    (row,) = (await node.books()).rows
    assert (row.admitted, row.settled, row.in_flight) == (1, 1, 0)


async def held_of(node: Caller, model: str) -> int:
    """Requests that leases hold of a model's windows."""
    key = node.store.keys.windows(node.domain.id, f"m:{model}")
    return int(await node.store.command("HGET", key, "held:1") or 0)


def under(bench, **limits: dict[str, int]) -> None:
    """The caller goes on under other limits of the same domain."""
    bench.ledger.follow(make_domain(**limits))


async def test_what_is_held_without_limits_counts_once_there_are_some(bench, steered):
    """Nobody follows what leases hold where nothing is limited; a recount finds it."""
    node = bench(small={})
    other = Caller(steered, make_domain(small={}), node="n2")
    await renew(node, wish(4), sequence=1)
    await renew(other, wish(3), sequence=1)
    for caller in (node, other):
        caller.ledger.follow(make_domain(small={"rpm": 10}, account={"rpm": 20}))
    await node.ledger.recount_leases()
    await other.ledger.recount_leases()
    verdicts = await other.admit_many(10)

    assert [verdict.code for verdict in verdicts].count(Code.ADMITTED) == 6  # 3 are free, 3 are its own
    assert await held_of(node, SMALL) == 4


async def test_nothing_stays_held_that_no_lease_holds(bench):
    """Limits that were lifted while leases were held, and come back when they are gone, are free again."""
    node = bench(small={"rpm": 10})
    await renew(node, wish(4), sequence=1)
    under(node, small={})
    await node.ledger.recount_leases()
    await renew(node, wish(0), sequence=2)
    under(node, small={"rpm": 10})
    await node.ledger.recount_leases()

    assert [verdict.code for verdict in await node.admit_many(10)] == [Code.ADMITTED] * 10


async def test_a_recount_changes_nothing_that_is_right(bench, steered):
    """However often, and whoever counts."""
    node = bench(small={"rpm": 10}, big={"rpm": 5})
    await renew(node, wish(2), wish(1, model=BIG), sequence=1)
    for _ in range(2):
        await node.ledger.recount_leases()

    assert await held_of(node, SMALL) == 2
    assert await held_of(node, BIG) == 1
