"""Windows as time passes: what leaves, what comes back, what a stale calendar or an odd clock may not do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_state.ledger import NOT_SENT, UNKNOWN, Code, Outcome, Verdict
from shared_state.limits import GUARD_MS
from tests.redis.ground import BIG, EPOCH_MS, SMALL, Bench, admitted, make_domain

OpenBench = Callable[..., Bench]
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
BUCKET_MS = 500


async def test_a_minute_leaves_bucket_by_bucket(bench: OpenBench) -> None:
    """The named time is the first at which the request fits, to the millisecond."""
    b = bench(small={"rpm": 3})
    for delta_ms in (0, 700, 20_000):
        await b.store.pass_time(delta_ms)
        assert not (await b.admit())[1].code
    _, verdict = await b.admit()

    assert verdict == Verdict(Code.AT_LIMIT, EPOCH_MS + BUCKET_MS + MINUTE_MS + GUARD_MS, "rpm")
    await b.store.set_time(verdict.at_ms - 1)
    assert (await b.admit())[1] == verdict
    await b.store.set_time(verdict.at_ms)
    assert not (await b.admit())[1].code
    assert (await b.admit())[
        1
    ].at_ms == verdict.at_ms + BUCKET_MS  # that of the second, 700 ms after the first


async def test_a_large_request_waits_until_enough_has_left(bench: OpenBench) -> None:
    """The time counts as many of the oldest buckets as are needed."""
    b = bench(small={"tpm": 100})
    for tokens in (40, 30, 30):
        await b.admit(tokens=(tokens, 0))
        await b.store.pass_time(10_000)
    wait = {size: (await b.admit(tokens=(size, 0)))[1].at_ms - EPOCH_MS for size in (40, 41, 70, 71, 100)}

    first = BUCKET_MS + MINUTE_MS + GUARD_MS
    assert wait == {
        40: first,
        41: first + 10_000,
        70: first + 10_000,
        71: first + 20_000,
        100: first + 20_000,
    }


async def test_what_a_refusal_was_told_by_is_looked_up_anew_each_time(bench: OpenBench) -> None:
    """The buckets of one refusal say nothing about those of a later one."""
    b = bench(small={"tpm": 100})
    first, _ = await b.admit(tokens=(60, 0))
    await b.store.pass_time(10_000)
    await b.admit(tokens=(40, 0))
    waits = [(await b.admit(tokens=(50, 0)))[1].at_ms - EPOCH_MS]
    await b.end(first, tokens_in=20, tokens_out=0)
    waits.append((await b.admit(tokens=(70, 0)))[1].at_ms - EPOCH_MS)

    begun = BUCKET_MS + MINUTE_MS + GUARD_MS
    assert waits == [begun, begun + 10_000]


async def test_the_longest_wait_of_all_windows_is_named(bench: OpenBench) -> None:
    """Whether it is the model's or the account's."""
    b = bench(account={"rpm": 1}, small={"rpd": 1})
    await b.admit()

    assert (await b.admit())[1] == Verdict(Code.AT_LIMIT, EPOCH_MS + 15 * HOUR_MS, "rpd")
    assert (await b.admit(BIG))[1].name == "rpm"


async def test_a_new_day_begins_with_nothing(bench: OpenBench) -> None:
    """At midnight of the configured zone, not a day after the first request."""
    b = bench(small={"rpd": 2, "timezone": "Asia/Tokyo"})
    assert admitted(await b.admit_many(3)) == 2

    await b.store.set_time(EPOCH_MS + 6 * HOUR_MS - 1)
    assert admitted(await b.admit_many(3)) == 0
    await b.store.set_time(EPOCH_MS + 6 * HOUR_MS)
    assert admitted(await b.admit_many(3)) == 2


async def test_who_is_on_the_way_at_midnight_counts_in_both_days(bench: OpenBench) -> None:
    """The provider may count a call of the last moment in the new day."""
    b = bench(small={"rpd": 3, "timezone": "Asia/Tokyo"})
    midnight_ms = EPOCH_MS + 6 * HOUR_MS
    await b.store.set_time(midnight_ms - GUARD_MS - 1)
    assert admitted(await b.admit_many(1)) == 1  # long there by midnight
    await b.store.set_time(midnight_ms - 1)
    assert admitted(await b.admit_many(3)) == 2
    await b.store.set_time(midnight_ms + 1)

    assert admitted(await b.admit_many(5)) == 1
    await b.store.set_time(midnight_ms + 24 * HOUR_MS)
    assert admitted(await b.admit_many(5)) == 3


async def test_who_is_given_back_after_midnight_is_taken_out_of_the_new_day(bench: OpenBench) -> None:
    """It never went out, so neither day has seen it."""
    b = bench(small={"rpd": 3, "timezone": "Asia/Tokyo"})
    midnight_ms = EPOCH_MS + 6 * HOUR_MS
    await b.store.set_time(midnight_ms - 1)
    reservation, _ = await b.admit()
    await b.store.set_time(midnight_ms + 1)
    await b.end(reservation, Outcome.NEUTRAL, flags=NOT_SENT)

    assert admitted(await b.admit_many(5)) == 3


async def test_who_was_held_up_until_after_midnight_counts_in_the_new_day(bench: OpenBench) -> None:
    """Admitted in time, sent a second late."""
    b = bench(small={"rpd": 3, "timezone": "Asia/Tokyo"})
    midnight_ms = EPOCH_MS + 6 * HOUR_MS
    await b.store.set_time(midnight_ms - 500)
    reservation, _ = await b.admit()
    await b.store.set_time(midnight_ms + 600)
    await b.end(reservation, dispatch_delay_ms=1000)

    assert admitted(await b.admit_many(5)) == 2


async def test_a_day_that_begins_twice_gives_its_limit_once(bench: OpenBench) -> None:
    """Havana sets its clocks back at one o'clock: midnight comes twice, the day's quota does not."""
    b = bench(small={"rpd": 2, "timezone": "America/Havana"})
    first_midnight_ms = 1_793_505_600_000  # 1 November 2026, 04:00 UTC
    total = 0
    for minutes in range(0, 25 * 60, 30):
        await b.store.set_time(first_midnight_ms + minutes * MINUTE_MS)
        b.ledger._tables.clear()  # every half hour another node, with a calendar of its own
        total += admitted(await b.admit_many(1))

    assert total == 2


async def test_a_node_with_an_old_calendar_asks_again(bench: OpenBench) -> None:
    """Its table is two days old: the script says so, the ledger builds a new one, nobody notices."""
    b = bench(small={"rpd": 2})
    assert admitted(await b.admit_many(3)) == 2

    await b.store.pass_time(3 * DAY_MS)
    assert admitted(await b.admit_many(3)) == 2


async def test_an_old_calendar_admits_nobody_twice(bench: OpenBench) -> None:
    """One model of a batch has a calendar and the other has none: the batch comes again as a whole."""
    b = bench(account={"rph": 100}, small={"rpd": 10})
    await b.ledger.admit([b.ask(SMALL), b.ask(BIG)])

    await b.store.pass_time(3 * DAY_MS)
    await b.ledger.admit([b.ask(BIG), b.ask(SMALL), b.ask(BIG)])
    books = await b.books()
    assert books.is_balanced
    assert {row.model: row.admitted for row in books.rows} == {SMALL: 2, BIG: 3}
    assert (await b.used())["", "rph"][0] == 3


async def test_a_settlement_with_an_old_calendar_loses_nothing(bench: OpenBench) -> None:
    """The first try changes nothing at all, not even what has expired meanwhile."""
    b = bench(small={"rpm": 2, "rpd": 10})
    reservation, _ = await b.admit(lease_ms=10 * DAY_MS)
    await b.admit(lease_ms=10 * DAY_MS)

    await b.store.pass_time(3 * DAY_MS)
    assert await b.end(reservation)
    assert (await b.used())[SMALL, "rpm"][0] == 0
    assert admitted(await b.admit_many(3)) == 2


async def test_unused_tokens_come_back_where_they_were_taken(bench: OpenBench) -> None:
    """In every window, and with them the room for others."""
    b = bench(account={"tph": 1000}, small={"tpm": 100, "tpd": 1000})
    reservation, _ = await b.admit(tokens=(20, 80))
    assert admitted(await b.admit_many(1, tokens=(1, 0))) == 0

    assert await b.end(reservation, tokens_in=20, tokens_out=5)
    used = {name: amount for (_, name), (amount, _) in (await b.used()).items()}
    assert used == {"tph": 25, "tpm": 25, "tpd": 25}
    assert admitted(await b.admit_many(2, tokens=(75, 0))) == 1


async def test_more_than_was_reserved_is_charged(bench: OpenBench) -> None:
    """An overrun goes beyond the limit, and is waited for."""
    b = bench(small={"tpm": 100})
    reservation, _ = await b.admit(tokens=(50, 0))
    await b.end(reservation, tokens_in=50, tokens_out=90)

    assert (await b.used())[SMALL, "tpm"][0] == 140
    assert (await b.admit(tokens=(1, 0)))[1].at_ms == EPOCH_MS + BUCKET_MS + MINUTE_MS + GUARD_MS


async def test_an_overrun_found_after_the_window_counts_from_then(bench: OpenBench) -> None:
    """A long stream ends when its minute is over: what is beyond the reservation is charged now, the rest is past."""
    b = bench(small={"tpm": 100})
    more, _ = await b.admit(tokens=(50, 0))
    less, _ = await b.admit(tokens=(50, 0))

    await b.store.pass_time(10 * MINUTE_MS)
    await b.end(more, tokens_in=50, tokens_out=30)
    await b.end(less, tokens_in=10, tokens_out=0)
    assert (await b.used())[SMALL, "tpm"][0] == 30


async def test_what_was_not_sent_is_given_back_whole(bench: OpenBench) -> None:
    """The provider never saw it, so it counts in no window; the books know it all the same."""
    b = bench(account={"rpm": 1, "tpm": 100}, small={"rpd": 1, "tph": 100, "concurrency": 1})
    for _ in range(5):
        reservation, verdict = await b.admit(tokens=(50, 50))
        assert not verdict.code
        await b.end(reservation, flags=NOT_SENT)

    assert {amount for amount, _ in (await b.used()).values()} == {0}
    (row,) = (await b.books()).rows
    assert (row.admitted, row.settled, row.in_flight) == (5, 5, 0)


async def test_unknown_usage_is_charged_as_reserved(bench: OpenBench) -> None:
    """Nobody knows how much a broken stream has used: in the provider's favour."""
    b = bench(small={"tpd": 1000})
    reservation, _ = await b.admit(tokens=(50, 50))
    await b.end(reservation, tokens_in=UNKNOWN, tokens_out=10)

    assert (await b.used())[SMALL, "tpd"][0] == 60


async def test_a_late_dispatch_moves_the_charge(bench: OpenBench) -> None:
    """What waited before it was sent counts from when it was sent, as the provider counts it."""
    b = bench(small={"rpm": 1})
    reservation, _ = await b.admit()
    await b.store.pass_time(20_000)
    await b.end(reservation, dispatch_delay_ms=15_000)

    sent_ms = EPOCH_MS + 15_000
    assert (await b.admit())[1].at_ms == sent_ms + BUCKET_MS + MINUTE_MS + GUARD_MS


async def test_an_emptied_window_leaves_no_bucket_behind(bench: OpenBench) -> None:
    """A model that is tried again and again without success would gather one for every try."""
    b = bench(small={"rpm": 5})
    for _ in range(5):
        reservation, _ = await b.admit()
        await b.end(reservation, Outcome.NEUTRAL, flags=NOT_SENT)
        await b.store.pass_time(5 * MINUTE_MS)
    names = await b.store.client.hkeys(b.store.keys.windows("alpha", f"m:{SMALL}"))

    assert set(names) == {b"rpm:sum", b"rpm:old", b"wide"}


async def test_a_limit_set_while_calls_are_in_flight_takes_nothing_back_for_them(bench: OpenBench) -> None:
    """Their tokens were never counted in the new window, so it must not become roomier than configured."""
    b = bench()
    before = [await b.admit(tokens=(90, 0)) for _ in range(10)]
    await b.store.pass_time(1000)

    limited = Bench(b.store, make_domain(small={"tpm": 100}))
    await limited.admit(tokens=(10, 0))
    for reservation, _ in before:
        await limited.end(reservation, tokens_in=1, tokens_out=0)
    assert (await limited.used())[SMALL, "tpm"][0] == 10
    assert admitted(await limited.admit_many(2, tokens=(90, 0))) == 1


@pytest.mark.parametrize("back_ms", [1, 700, 90_000, 2 * HOUR_MS])
async def test_a_clock_that_steps_back_forgets_nothing(bench: OpenBench, back_ms: int) -> None:
    """A promoted replica is behind: the limit holds, and the window empties once time has caught up."""
    b = bench(small={"rpm": 5})
    assert admitted(await b.admit_many(3)) == 3

    await b.store.pass_time(-back_ms)
    assert admitted(await b.admit_many(5)) == 2
    await b.store.pass_time(back_ms + MINUTE_MS + BUCKET_MS + GUARD_MS)
    assert (await b.used())[SMALL, "rpm"][0] == 0
    assert admitted(await b.admit_many(9)) == 5


async def test_a_clock_that_steps_back_over_midnight_opens_no_old_day(bench: OpenBench) -> None:
    """The day before was closed; its quota does not come back, and today's is not given twice."""
    b = bench(small={"rpd": 3})
    await b.store.set_time(EPOCH_MS + 15 * HOUR_MS + 1000)
    assert admitted(await b.admit_many(2)) == 2

    await b.store.pass_time(-2000)
    b.ledger._tables.clear()
    assert admitted(await b.admit_many(3)) == 1
    await b.store.pass_time(4000)
    assert admitted(await b.admit_many(3)) == 0


async def test_a_lease_that_ran_out_frees_its_slot_and_stays_charged(bench: OpenBench) -> None:
    """Nobody knows what the dead caller used: the slot comes back, the tokens do not."""
    b = bench(small={"concurrency": 1, "tpd": 100})
    reservation, _ = await b.admit(tokens=(40, 0), lease_ms=5000)
    await b.store.pass_time(4999)
    assert (await b.admit())[1] == Verdict(Code.AT_LIMIT, 0, "concurrency")

    await b.store.pass_time(1)
    assert not (await b.admit())[1].code
    assert not await b.end(reservation, tokens_in=1, tokens_out=1)
    assert (await b.used())[SMALL, "tpd"][0] == 40
    (row,) = (await b.books()).rows
    assert (row.admitted, row.abandoned, row.settled, row.in_flight) == (2, 1, 0, 1)


async def test_settled_late_but_before_anybody_noticed_is_settled(bench: OpenBench) -> None:
    """A lease only matters when its slot is wanted or the reaper comes."""
    b = bench()
    reservation, _ = await b.admit(lease_ms=5000)
    await b.store.pass_time(60_000)

    assert await b.end(reservation)
    assert not await b.end(reservation)
    (row,) = (await b.books()).rows
    assert (row.settled, row.abandoned) == (1, 0)


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 1000])
async def test_a_bucket_that_drains_lets_in_what_has_drained(bench: OpenBench, limit: int) -> None:
    """The whole limit at once, then one after the other as the time goes; the named time is true."""
    b = bench(small={"rpm": limit, "algorithms": {"rpm": "token_bucket"}})
    assert admitted(await b.admit_many(min(limit, 200) + (limit < 200))) == min(limit, 200)
    for _ in range(4 if limit < 200 else 0):
        _, verdict = await b.admit()
        assert (verdict.code, verdict.name) == (Code.AT_LIMIT, "rpm")
        await b.store.set_time(verdict.at_ms - 1)
        assert (await b.admit())[1].code == Code.AT_LIMIT
        await b.store.set_time(verdict.at_ms)
        assert not (await b.admit())[1].code
