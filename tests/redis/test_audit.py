"""The auditor notices everything that is off, and says what and why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.jobs.audit import Audit, BooksOffError
from shared_state.books import Cause, Difference, audited, by_cause, read_audit, read_books
from shared_state.ledger import LEASED, Amounts, LeaseWish, Outcome
from tests.redis.ground import BIG, DOMAIN, SMALL, Bench, Only, make_domain

LIMITS = {"account": {"rpm": 100}, "small": {"rpm": 50, "tpm": 10_000}, "big": {}}
ONE = Amounts(1, 100, 60, 40, 1000)


def audit_of(node: Bench) -> Audit:
    return Audit(node.store, Only(node.domain))


async def lively(bench: Callable[..., Bench]) -> Bench:
    """Something of everything: settled, failed, abandoned, in flight, leased and spent."""
    node = bench(**LIMITS)
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL):
        await node.attempt(outcome)
    await node.admit(BIG, lease_ms=1)
    await node.store.pass_time(10)
    await node.admit(tokens=(5, 5))
    await node.admit(BIG)
    wishes = [LeaseWish(model, Amounts(), Amounts(), 3, ONE) for model in (SMALL, BIG)]
    await node.ledger.renew_leases(wishes, sequence=1, life_ms=60_000, share=2)
    spent = [LeaseWish(SMALL, ONE, Amounts(2, 200, 120, 80, 2000), 2, ONE)]
    await node.ledger.renew_leases(spent, sequence=2, life_ms=60_000, share=2)
    await node.end("n1.leased", flags=LEASED, pool_id="chat", tokens_in=1, tokens_out=1, cost_nano=1)
    return node


async def test_books_that_balance_are_silent(bench):
    """Whatever is settled, abandoned, in flight or leased is in the books; the report says that nothing is off."""
    node = await lively(bench)
    await audit_of(node).run(0)
    books = await read_books(node.store, DOMAIN)
    report = await read_audit(node.store)

    assert sum(row.in_flight for row in books.rows) == books.leases == 2
    assert sum(row.abandoned for row in books.rows) == 1
    assert report is not None
    assert report[1] == dict.fromkeys(Cause, 0)


async def test_calls_that_run_out_of_a_lease_are_in_the_books(bench):
    """They are held by the windows of the model and of the account, beside what is left of the lease."""
    node = bench(**LIMITS)
    await node.ledger.renew_leases(
        [LeaseWish(SMALL, Amounts(), Amounts(), 3, ONE)], sequence=1, life_ms=60_000, share=2
    )
    running = LeaseWish(SMALL, Amounts(), Amounts(), 2, ONE, running=ONE)
    await node.ledger.renew_leases([running], sequence=2, life_ms=60_000, share=2)

    assert await node.store.client.hget(f"{node.store.keys.domain(DOMAIN)}:win:m:{SMALL}", "held:1") == b"3"
    assert (await read_books(node.store, DOMAIN)).is_balanced


# -- each balance, broken by hand


async def lose_a_reservation(node: Bench) -> None:
    """A settlement that took the record away and booked nothing."""
    (reservation,) = await node.store.client.hkeys(node.store.keys.reservations(DOMAIN, SMALL))
    await node.store.client.hdel(node.store.keys.reservations(DOMAIN, SMALL), reservation)
    await node.store.client.zrem(node.store.keys.flight(DOMAIN), f"{SMALL}\t{reservation.decode()}")


async def settle_twice(node: Bench) -> None:
    await node.store.client.hincrby(node.store.keys.books(DOMAIN), f"{SMALL}\tchat\tsettled", 1)


async def abandon_twice(node: Bench) -> None:
    await node.store.client.hincrby(node.store.keys.books(DOMAIN), f"{BIG}\tchat\tabandoned", 2)


async def forget_an_admission(node: Bench) -> None:
    await node.store.client.hincrby(node.store.keys.books(DOMAIN), f"{SMALL}\tchat\tadmitted", -1)


async def forget_the_books_of_a_model(node: Bench) -> None:
    """Nothing but its reservation tells that it was ever asked."""
    for verb in ("admitted", "settled", "abandoned"):
        await node.store.client.hdel(node.store.keys.books(DOMAIN), f"{BIG}\tchat\t{verb}")


async def leave_an_expiry(node: Bench) -> None:
    """It would count as in flight until it expires."""
    await node.store.client.zadd(node.store.keys.flight(DOMAIN), {f"{SMALL}\tn9.1": 1e15})


async def lose_an_expiry(node: Bench) -> None:
    """Nobody would ever abandon the reservation."""
    (reservation,) = await node.store.client.hkeys(node.store.keys.reservations(DOMAIN, BIG))
    await node.store.client.zrem(node.store.keys.flight(DOMAIN), f"{BIG}\t{reservation.decode()}")


async def hold_too_much(node: Bench) -> None:
    """Room that nobody will ever give back."""
    await node.store.client.hincrby(node.store.keys.windows(DOMAIN, "a"), "held:1", 4)


async def hold_too_little(node: Bench) -> None:
    """Room that a lease has paid for and others could take."""
    await node.store.client.hset(node.store.keys.windows(DOMAIN, f"m:{SMALL}"), "held:2", 0)


async def forget_what_is_held(node: Bench) -> None:
    await node.store.client.delete(node.store.keys.windows(DOMAIN, f"m:{SMALL}"))


async def lose_a_lease(node: Bench) -> None:
    await node.store.client.hdel(node.store.keys.leases(DOMAIN), f"n1\t{BIG}")


Break = Callable[[Bench], Awaitable[None]]


@pytest.mark.parametrize(
    ("harm", "cause", "where", "off"),
    [
        (lose_a_reservation, Cause.MISSING_SETTLEMENTS, f"{SMALL} in chat", 1),
        (settle_twice, Cause.BOOKED_TWICE, f"{SMALL} in chat", 1),
        (abandon_twice, Cause.BOOKED_TWICE, f"{BIG} in chat", 2),
        (forget_an_admission, Cause.BOOKED_TWICE, f"{SMALL} in chat", 1),
        (forget_the_books_of_a_model, Cause.BOOKED_TWICE, f"{BIG} in chat", 1),
        (leave_an_expiry, Cause.LEAKED_RESERVATIONS, f"expiries without a reservation of {SMALL}", 1),
        (lose_an_expiry, Cause.LEAKED_RESERVATIONS, f"reservations without an expiry of {BIG}", 1),
        (hold_too_much, Cause.HELD_LEASES, "requests held of the account", 4),
        (hold_too_little, Cause.HELD_LEASES, f"tokens held of {SMALL}", 200),
        (forget_what_is_held, Cause.HELD_LEASES, f"requests held of {SMALL}", 2 * (1 + 100 + 60 + 40 + 1000)),
        (lose_a_lease, Cause.HELD_LEASES, "requests held of the account", 3 * (1 + 100 + 60 + 40 + 1000)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_balance_that_is_broken_is_found(bench, harm: Break, cause, where, off):
    """Its cause, its place, its amount, and no other cause; the job fails and reports it."""
    node = await lively(bench)
    await harm(node)
    with pytest.raises(BooksOffError, match=cause):
        await audit_of(node).run(0)
    ((_, limited),) = audited({DOMAIN: node.domain})
    books = await read_books(node.store, DOMAIN, limited=limited)
    report = await read_audit(node.store)

    assert {difference.cause for difference in books.differences} == {cause}
    assert where in {difference.where for difference in books.differences}
    assert not books.is_balanced
    assert report is not None
    assert report[1] == dict.fromkeys(Cause, 0) | {cause: off}


async def test_without_limits_nothing_is_held(bench):
    """Leases of what is not limited are no windows' business, whether or not the limits are known."""
    node = bench()
    await node.ledger.renew_leases(
        [LeaseWish(SMALL, Amounts(), Amounts(), 3, ONE)], sequence=1, life_ms=60_000, share=2
    )

    assert (await read_books(node.store, DOMAIN)).is_balanced
    await audit_of(node).run(0)


async def test_a_report_does_not_stay_for_ever(bench):
    """Without an auditor its last word must not pass for news."""
    node = bench()
    assert await read_audit(node.store) is None

    await audit_of(node).run(0)
    assert 0 < await node.store.client.ttl(node.store.keys.audit) <= 600


def test_the_limited_scopes_of_a_domain():
    """The account by the empty name, and every model that has windows."""
    assert audited({DOMAIN: make_domain(**LIMITS)}) == [(DOMAIN, {"", SMALL})]


@given(st.lists(st.tuples(st.sampled_from(list(Cause)), st.integers(-9, 9))))
def test_differences_of_both_signs_never_cancel(found):
    """One too many and one too few are two faults."""
    sums = by_cause(Difference(cause, "d", "w", amount) for cause, amount in found)

    assert sum(sums.values()) == sum(abs(amount) for _, amount in found)
    assert set(sums) == set(Cause)
