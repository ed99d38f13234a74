"""Money: limits per request, day and month, of models and accounts; and the alert before it is spent."""

from __future__ import annotations

from shared_state.events import decode_event
from shared_state.ledger import Ask, Code, Outcome, Settlement
from tests.redis.ground import EPOCH_MS, LEASE_MS, SMALL, make_pool

CENT = 10**7
DAY_MS = 24 * 3_600_000


async def spend(bench, *costs: int) -> list[Code]:
    """Asks for requests of these costs (1e-9 USD), one after the other."""
    codes = []
    for number, cost in enumerate(costs):
        (verdict,) = await bench.ledger.admit(
            [Ask(f"n1.m{next(bench.numbers)}-{number}", SMALL, "chat", 1, 1, cost, LEASE_MS)]
        )
        codes.append(verdict.code)
    return codes


async def test_a_day_never_costs_more_than_its_limit(bench, steered):
    """What does not fit is refused until the calendar's next day; something smaller still fits."""
    node = bench(small={"usd_per_day": 0.10})

    assert await spend(node, 6 * CENT, 6 * CENT, 4 * CENT) == [Code.ADMITTED, Code.AT_LIMIT, Code.ADMITTED]
    await steered.set_time((EPOCH_MS // DAY_MS + 1) * DAY_MS)
    assert await spend(node, 6 * CENT) == [Code.ADMITTED]


async def test_the_account_and_the_month_count_too(bench):
    """Every money window must have room."""
    node = bench(account={"usd_per_month": 0.05}, small={"usd_per_day": 0.10})

    assert await spend(node, 4 * CENT, 2 * CENT) == [Code.ADMITTED, Code.AT_LIMIT]


async def test_a_request_that_is_too_dear_is_never_admitted(bench):
    """A limit per request counts nothing, it only refuses."""
    node = bench(small={"usd_per_request": 0.02})

    assert await spend(node, 3 * CENT, 2 * CENT, 2 * CENT) == [Code.TOO_LARGE, Code.ADMITTED, Code.ADMITTED]


async def test_what_was_not_spent_comes_back(bench):
    """The reservation is the most that it may cost; settlement charges what it did."""
    node, pool = bench(small={"usd_per_day": 0.10}), make_pool()
    ask = Ask("n1.dear", SMALL, "chat", 1, 1, 9 * CENT, LEASE_MS)
    await node.ledger.admit([ask])
    await node.ledger.settle([Settlement("n1.dear", SMALL, pool, Outcome.SUCCESS, 1, 1, CENT)])

    assert (await node.used())[SMALL, "usd_per_day"][0] == CENT
    assert await spend(node, 9 * CENT) == [Code.ADMITTED]


async def test_the_alert_comes_once_a_period(bench, steered):
    """At 80 percent everybody is told, once, and again in the next period."""
    node, pool = bench(small={"usd_per_day": 0.10}), make_pool()
    for day in range(2):
        await steered.set_time(EPOCH_MS + day * DAY_MS)
        for number in range(3):
            name = f"n1.a{day}-{number}"
            await node.ledger.admit([Ask(name, SMALL, "chat", 1, 1, 3 * CENT, LEASE_MS)])
            await node.ledger.settle([Settlement(name, SMALL, pool, Outcome.SUCCESS, 1, 1, 3 * CENT)])
    raw = await node.store.client.lrange(node.store.keys.news(node.domain.id), 0, -1)
    events = [decode_event(item) for item in raw]

    assert [(e.type, e.kind, e.id, e.reason) for e in events if e.type == "budget_alert"] == [
        ("budget_alert", "model", SMALL, "usd_per_day")
    ] * 2
