"""Gates on a real server: what several nodes let through together, given back and settled; and their books."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from node.call import Trail
from node.routing.gatehouse import Gatehouse
from node.routing.gates import Gates
from node.routing.interrupts import Interrupts
from node.watch import StoreWatch
from scheduler.jobs.audit import Audit
from shared_state.books import BookRow, read_books
from shared_state.client_keys import ClientKey
from shared_state.clock import ServerClock
from shared_state.errors import BudgetExceededError, LimitReachedError, StateUnavailableError
from shared_state.gates import key_gate
from shared_state.ledger import Code, Verdict
from shared_state.statistics import minutes_of, read_minute
from shared_state.store import Store
from tests.redis.ground import Caller, Only
from tests.support.processes import wait_until
from tests.unit.node.house import NOW_MS, House, Reader, chat, mesh
from tests.unit.node.scripted import ScriptedTransport, whole

GATE = "pool:chat"
PRICED = {"pricing": {"input": 1.0, "output": 2.0}}


class Site:
    """A node whose gates are real; its models and providers follow a script."""

    def __init__(self, store: Store, topology: Any, *, name: str, **scripts: Any) -> None:
        self.store = store
        self.topology = topology
        self.transport = ScriptedTransport(**(scripts or {"alpha": whole(usage=(7, 3))}))
        watch = StoreWatch(store, on_loss="leased")
        watch.connected = True
        self.house = House(topology, self.transport)
        clock = ServerClock()
        self.gatehouse = Gatehouse(
            store, watch, clock=clock, node=name, nodes=lambda: 2, on_loss="leased", on_failure=print
        )
        self.house.router._gates = Gates(
            {domain.id: self.gatehouse.build(domain) for domain in topology.gates.values()},
            self.house.router._lanes,
            of_key=self.gatehouse.of_key,
            watch=watch,
            reservations=(f"{name}.{number}" for number in range(1, 10_000)),
            now_ms=clock.now_ms,
            on_loss="leased",
        )

    async def serve(self, **fields: Any) -> bool:
        """One call; whether it was let through."""
        task = asyncio.current_task()
        assert task is not None
        try:
            await self.house.router.serve(chat(**fields), Reader(), Interrupts(task), Trail())
        except (LimitReachedError, BudgetExceededError, StateUnavailableError):
            return False
        return True

    async def books(self, domain: str = GATE) -> BookRow:
        """The one row of the gate's books, once everything has reached the server."""
        await self.gatehouse.flush()
        books = await read_books(self.store, domain)
        assert books.is_balanced
        (row,) = books.rows
        return row

    async def used(self, domain: str = GATE) -> dict[str, int]:
        """What is used of each window of the gate."""
        await self.gatehouse.flush()
        used = await Caller(self.store, self.topology.gates[domain]).used()
        return {window: amount for (scope, window), (amount, _) in used.items() if scope == ""}


@pytest.fixture
def sites(open_store: Callable[..., Store]) -> Callable[..., list[Site]]:
    """Two nodes, each with connections of its own."""

    def build(pool: dict[str, Any], **more: Any) -> list[Site]:
        topology = mesh("alpha.m", model=PRICED, pool=pool, **more)
        return [Site(open_store(), topology, name=f"n{number}") for number in (1, 2)]

    return build


async def race(sites: list[Site], count: int, **fields: Any) -> int:
    """So many calls at once over all nodes; how many were let through."""
    return sum(await asyncio.gather(*(sites[i % len(sites)].serve(**fields) for i in range(count))))


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"rpm": 23}, 23),
        ({"rpd": 23}, 23),
        ({"tpm": 230}, 23),
        ({"usd_per_day": 23 * 13e-6}, 23),
    ],
)
async def test_two_nodes_never_exceed_the_limit_of_a_pool(
    sites: Callable[..., list[Site]], limits: dict[str, Any], most: int
) -> None:
    """Whatever is reserved meanwhile, what was used in the end stays within the limit, and comes near it."""
    both = sites({"limits": limits})
    served = 0
    for _ in range(12):  # what an early call did not use is there for a later one
        served += await race(both, 10, max_tokens=3)
        await asyncio.gather(*(site.gatehouse.flush() for site in both))
    used = await both[0].used()

    assert served <= most
    assert served >= most - 4  # an estimate of the prompt is larger than what was used
    (window,) = limits
    unit = 10**9 if window.startswith("usd") else 1
    assert used[window] <= round(limits[window] * unit)
    assert (await both[0].books()).settled == served


@pytest.mark.parametrize("limits", [{"rpm": 23}, {"tpm": 230}, {"usd_per_day": 23 * 13e-6}])
async def test_two_nodes_never_exceed_the_limit_of_a_key(
    sites: Callable[..., list[Site]], limits: dict[str, Any]
) -> None:
    """Several keys race at once; each has its own limit, and its own books."""
    both = sites({})
    keys = [
        ClientKey.model_validate({"id": f"k{number}", "name": "k", "created": 0.0, "limits": limits})
        for number in range(3)
    ]
    served = dict.fromkeys((key.id for key in keys), 0)
    for _ in range(10):
        for key, count in zip(
            keys, await asyncio.gather(*(race(both, 8, key=key, max_tokens=3) for key in keys)), strict=True
        ):
            served[key.id] += count
        await asyncio.gather(*(site.gatehouse.flush() for site in both))

    assert all(19 <= count <= 23 for count in served.values())
    for key in keys:
        row = await both[0].books(key_gate(key.id))
        assert (row.admitted, row.settled, row.in_flight) == (served[key.id],) * 2 + (0,)


async def test_a_key_without_limits_has_books_too(sites: Callable[..., list[Site]]) -> None:
    """Who used how much is known of every key."""
    both = sites({})
    key = ClientKey(id="free", name="free", created=0.0)

    assert await race(both, 10, key=key) == 10
    await both[1].gatehouse.flush()
    assert (await both[0].books("key:free")).settled == 10
    sums: Counter[str] = Counter()
    for minute in await minutes_of(both[0].store, "key:free"):
        for row in await read_minute(both[0].store, "key:free", minute):
            sums.update(row.metrics)
    assert (sums["attempts"], sums["tokens_in"], sums["tokens_out"], sums["cost"]) == (10, 70, 30, 130_000)


async def test_a_call_that_no_model_admits_is_given_back(sites: Callable[..., list[Site]]) -> None:
    """Refused calls consume nothing of their pool."""
    site, _ = sites({"limits": {"rpm": 5, "tpm": 10_000, "concurrency": 2}})
    site.house.ledger.verdicts["alpha.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 1000, "rpm")] * 20
    for _ in range(20):
        assert not await site.serve()
        await site.gatehouse.flush()

    assert await site.used() == {"rpm": 0, "tpm": 0, "concurrency": 0}
    row = await site.books()
    assert (row.admitted, row.settled, row.in_flight) == (20, 20, 0)


async def test_what_was_used_is_what_is_charged(sites: Callable[..., list[Site]]) -> None:
    """The reservation is the most that may be needed; the sum of the attempts takes its place."""
    site, _ = sites({"limits": {"tpm": 100_000, "usd_per_day": 1}})
    await site.serve(max_tokens=5000)

    assert await site.used() == {"tpm": 10, "usd_per_day": 13_000}


async def test_more_than_was_reserved_is_charged_too(sites: Callable[..., list[Site]]) -> None:
    """A provider that ignores the bound still fills the window."""
    site, _ = sites({"limits": {"tpm": 1000, "usd_per_day": 1}})
    site.transport._scripts["alpha"] = [whole(usage=(100, 900))]

    assert await site.serve(max_tokens=5)
    assert await site.used() == {"tpm": 1000, "usd_per_day": 1_900_000}
    assert not await site.serve(max_tokens=5)


async def test_parallel_calls_are_limited_and_places_come_back(sites: Callable[..., list[Site]]) -> None:
    """Over both nodes together."""
    both = sites({"limits": {"concurrency": 3}})
    for _ in range(2):
        may_answer, slow = asyncio.Event(), whole()
        slow.wait = may_answer.wait
        for site in both:
            site.transport._scripts["alpha"] = [slow]
        calls = [asyncio.create_task(both[i % 2].serve()) for i in range(20)]
        while sum(call.done() for call in calls) < 17:
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=0.01)
        assert sum(call.done() for call in calls) == 17
        may_answer.set()
        assert sum(await asyncio.gather(*calls)) == 3
        await asyncio.gather(*(site.gatehouse.flush() for site in both))


async def test_a_gate_that_the_store_has_forgotten_keeps_its_limit(sites: Callable[..., list[Site]]) -> None:
    """Each node says again what it let through, before anybody is let through again."""
    both = sites({"limits": {"rpm": 12, "usd_per_day": 1}})
    for site in both:
        site.gatehouse.start()
    store, served = both[0].store, await race(both, 8)
    await asyncio.gather(*(site.gatehouse.flush() for site in both))
    lost = [key async for key in store.client.scan_iter(f"{store.keys.domain(GATE)}*")]
    await store.client.delete(*lost)

    async def is_full() -> bool:
        nonlocal served
        served += await race(both, 4)
        return served >= 12

    await wait_until(is_full, interval=0.1, what="the rest of the limit to be given out")
    served += await race(both, 10)
    await asyncio.gather(*(site.gatehouse.flush() for site in both))
    books = await read_books(store, GATE)
    await asyncio.gather(*(site.gatehouse.stop() for site in both))

    assert served == 12
    assert books.is_balanced, books


async def test_the_alert_of_a_pools_money_is_told(sites: Callable[..., list[Site]]) -> None:
    """Once, with the pool's domain for a name."""
    site, _ = sites({"budget": {"daily_limit": 60e-6, "alert_threshold": 0.2}})
    for _ in range(2):
        await site.serve(max_tokens=1)
        await site.gatehouse.flush()
    news = await site.store.client.lrange(site.store.keys.news(GATE), 0, -1)

    assert len(news) == 1
    assert b'"type":"budget_alert"' in news[0]
    assert b'"domain":"pool:chat"' in news[0]


async def test_the_auditor_reads_the_books_of_gates(sites: Callable[..., list[Site]]) -> None:
    """They balance like those of accounts."""
    both = sites({"limits": {"rpm": 10}}, budget={"daily_limit": 1})
    await race(both, 30)
    await asyncio.gather(*(site.gatehouse.flush() for site in both))

    await Audit(both[0].store, Only(*both[0].topology.gates.values())).run(0)
    assert (await both[0].books("mesh:budget")).admitted == 30
