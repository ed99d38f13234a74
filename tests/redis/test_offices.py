"""A node's books go on whatever it runs: one ledger a domain, followed by every configuration."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from node.offices import Offices
from node.routing.gatehouse import Gatehouse
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.books import read_books
from shared_state.clock import ServerClock
from shared_state.ledger import Ask, Code, Outcome, Settlement
from shared_state.store import Store
from shared_state.topology import Topology
from tests.redis.ground import make_pool
from tests.support.processes import wait_until
from tests.unit.node.house import mesh

POOL = make_pool()


def limited(rpm: int | None, *models: str) -> Topology:
    limits = {} if rpm is None else {"rpm": rpm}
    return mesh(*(models or ("a.m",)), model={"limits": limits})


class Node:
    """What of a node keeps the books."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.watch = StoreWatch(store, on_loss="leased")
        self.watch.connected = True
        self.clock = ServerClock()
        self.failed: list[asyncio.Task[None]] = []
        self.offices = Offices(
            store,
            self.watch,
            node="n1",
            clock=self.clock,
            nodes=lambda: 1,
            on_reply=lambda ledger: None,
            on_failure=self.failed.append,
            holds_leases=True,
        )
        self._numbers = itertools.count(1)
        self.snapshot: Snapshot | None = None

    def run(self, topology: Topology) -> None:
        old = self.snapshot
        view = old.succeed(topology) if old else Snapshot(self.store, topology, self.watch, clock=self.clock)
        self.offices.adopt(topology.domains.values(), view)
        self.snapshot = view

    async def admit(self, count: int, model: str = "a.m") -> list[str]:
        """Ids of what was admitted of so many."""
        batcher = self.offices.batchers[model.partition(".")[0]]
        asks = [Ask(f"n1.{next(self._numbers)}", model, "chat", 1, 1, 0, 60_000) for _ in range(count)]
        verdicts = await asyncio.gather(*(batcher.admit(ask, POOL) for ask in asks))
        return [
            ask.reservation
            for ask, verdict in zip(asks, verdicts, strict=True)
            if verdict.code == Code.ADMITTED
        ]

    async def settle(self, *reservations: str, model: str = "a.m") -> None:
        batcher = self.offices.batchers[model.partition(".")[0]]
        for reservation in reservations:
            batcher.settle(Settlement(reservation, model, POOL, Outcome.SUCCESS))
        await batcher.flush()

    async def field(self, key: str, name: str) -> int:
        return int(await self.store.command("HGET", key, name) or 0)


@pytest.fixture
async def node(open_store: Callable[..., Store]) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        node = Node(open_store())
        stack.push_async_callback(node.offices.stop)
        yield node


async def test_limits_change_and_what_was_used_stays_used(node: Node):
    """Lowered, raised, lifted: at once, in the same ledger, without a gap in its sequences."""
    node.run(limited(10))
    ledger = node.offices.ledgers["a"]
    first = await node.admit(4)
    node.run(limited(6))
    lowered = await node.admit(9)
    node.run(limited(8))
    raised = await node.admit(9)
    node.run(limited(None))
    lifted = await node.admit(9)
    await node.settle(*first, *lowered, *raised, *lifted)
    books = await read_books(node.store, "a")

    assert [len(each) for each in (first, lowered, raised, lifted)] == [4, 2, 2, 9]
    assert node.offices.ledgers["a"] is ledger
    assert ledger.sequences["admit"] == 4
    assert books.is_balanced
    assert sum(row.settled for row in books.rows) == 17


async def test_calls_of_what_is_gone_are_settled(node: Node):
    """The model, and in the end the whole account, are configured no more."""
    node.run(limited(10, "a.m", "a.n", "b.m"))
    small, other = await node.admit(2), await node.admit(1, "b.m")
    node.run(limited(10, "a.n"))
    await node.settle(*small)
    await node.settle(*other, model="b.m")
    books = [await read_books(node.store, domain) for domain in ("a", "b")]

    assert all(each.is_balanced for each in books)
    assert [sum(row.settled for row in each.rows) for each in books] == [2, 1]


async def test_a_domain_that_is_gone_is_handed_in_and_may_come_back(node: Node):
    """Its leases go back at once, and nobody has to wait for this node after a loss there; later it is served as before."""
    node.offices.start()
    node.run(limited(10, "a.m", "b.m"))
    await node.settle(*await node.admit(3))
    allowance = node.offices.leases["a"].allowances["a.m"]
    for _ in range(50):
        allowance.note(Ask("x", "a.m", "chat", 1, 1, 0, 1))
    node.offices.leases["a"]._hurry.set()
    await wait_until(lambda: allowance.left.requests)
    node.run(limited(10, "b.m"))
    await node.offices.retire(["a"])
    leases = node.store.keys.leases("a")

    async def nothing_is_leased() -> bool:
        return not await node.store.command("HLEN", leases)

    await wait_until(nothing_is_leased)
    mark = await node.field(node.store.keys.sequences("a"), "n1\tt")
    node.run(limited(10, "a.m", "b.m"))
    again = await node.admit(9)

    assert mark == -1
    assert len(again) == 7
    assert node.failed == []


async def test_a_gate_follows_its_limits(open_store: Callable[..., Store]):
    """The limits of a pool are those of the latest configuration; what went through counts."""
    store = open_store()
    watch = StoreWatch(store, on_loss="leased")
    watch.connected = True
    house = Gatehouse(
        store, watch, clock=ServerClock(), node="n1", nodes=lambda: 1, on_loss="leased", on_failure=print
    )
    numbers = itertools.count(1)

    async def admit(rpm: int | None, count: int) -> int:
        pool: dict[str, Any] = {"limits": {"rpm": rpm} if rpm else {"concurrency": 99}}
        gate = house.build(mesh("a.m", pool=pool).gates["pool:chat"])
        asks = [Ask(f"n1.{next(numbers)}", "*", "chat", 1, 1, 0, 60_000) for _ in range(count)]
        verdicts = await asyncio.gather(*(gate.batcher.admit(ask, POOL) for ask in asks))
        return sum(verdict.code == Code.ADMITTED for verdict in verdicts)

    admitted = [await admit(rpm, 9) for rpm in (4, 6, 5, None)]
    await house.stop()

    assert admitted == [4, 2, 0, 9]
