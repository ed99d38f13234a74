"""The parts of a node under load while the store loses what it knew: what goes out to the provider never exceeds the limit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, closing

import pytest

from node.batch import DomainBatcher
from node.leases import LeaseKeeper
from node.snapshot import Snapshot
from node.terms import TermKeeper
from node.watch import StoreWatch
from shared_state.books import DomainBooks, read_books
from shared_state.clock import ServerClock
from shared_state.domains import order
from shared_state.ledger import LEASED, NOT_SENT, Ask, Code, DomainLedger, Outcome, Settlement
from shared_state.state import Status
from shared_state.store import Store
from shared_state.topology import Topology
from tests.redis.ground import SMALL, make_pool
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer
from tests.unit.node.house import mesh

LIMIT = 300
POOL = make_pool()
TOPOLOGY = mesh(SMALL, model={"limits": {"rpm": LIMIT}})


class Node:
    """What of a node stands between a request and the store."""

    def __init__(self, store: Store, topology: Topology, name: str) -> None:
        self.name = name
        self.store = store
        self.sent = 0
        self.codes: set[Code] = set()
        clock = ServerClock()
        self.watch = StoreWatch(store, on_loss="leased")
        self.snapshot = Snapshot(store, topology, self.watch, clock=clock)
        self.ledger = DomainLedger(store, topology.domains["alpha"], node=name, clock=clock)
        self.batcher = DomainBatcher(self.ledger, self.watch, on_reply=self._observe)
        self.leases = LeaseKeeper(self.ledger, self.watch, nodes=lambda: 2)
        self.terms = TermKeeper(self.ledger, self.leases, self.snapshot, self.watch)
        self.snapshot.follow({"alpha": self.ledger})
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    def _observe(self, ledger: DomainLedger) -> None:
        self.snapshot.observe_epoch("alpha", ledger.epoch)

    async def start(self) -> None:
        loops = (self.watch.run(), self.snapshot.run(), self.leases.run(), self.terms.run())
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        await self.snapshot.is_complete.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def attempt(self) -> Code:
        """One request, as the router would have it."""
        ask = Ask(f"{self.name}.{next(self._numbers)}", SMALL, "chat", 0, 0, 0, 60_000)
        allowance = self.leases.allowances[SMALL]
        if self.watch.connected and not self.watch.held and not allowance.is_reported:
            await allowance.until_reported(1.0)
        verdict = await self.batcher.admit(ask, POOL)
        self.codes.add(verdict.code)
        if verdict.code is Code.ADMITTED:
            allowance.note(ask)
            if verdict.from_lease:
                allowance.shrink(ask)
            await self._send(ask.reservation)
        elif verdict.code in (Code.STORE_AWAY, Code.HELD):
            if verdict.in_doubt:
                allowance.shrink(ask)
            if allowance.spend(ask):
                await self._send(f"{self.name}.{next(self._numbers)}", LEASED)
                allowance.end(ask.reservation)
        return verdict.code

    async def _send(self, reservation: str, flags: int = 0) -> None:
        self.sent += 1
        await asyncio.sleep(0.002)
        settlement = Settlement(reservation, SMALL, POOL, Outcome.SUCCESS, pool_id="chat", flags=flags)
        self.batcher.settle(settlement)

    async def keep_asking(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.attempt()
            await asyncio.sleep(0.005)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with closing(ValkeyServer(persistence=True)) as server:
        yield server.start()


@pytest.fixture
async def nodes(server: ValkeyServer, namespace: str) -> AsyncIterator[list[Node]]:
    """Two nodes at work, on a server of their own."""
    async with AsyncExitStack() as stack:
        started = []
        for name in ("n1", "n2"):
            store = await stack.enter_async_context(
                aclosing(Store(server.url, namespace=namespace, timeout_s=0.25))
            )
            node = Node(store, TOPOLOGY, name)
            stack.push_async_callback(node.stop)
            await node.start()
            started.append(node)
        yield started


def _tail(server: ValkeyServer, size: int) -> None:
    server.lose_tail(size)


def _nothing(server: ValkeyServer, _: int) -> None:
    server.restart()


def _everything(server: ValkeyServer, _: int) -> None:
    server.restart(keep_data=False)


@pytest.mark.parametrize("lose", [_tail, _nothing, _everything])
async def test_under_load_no_loss_exceeds_a_limit(
    server: ValkeyServer, nodes: list[Node], lose: Callable[[ValkeyServer, int], None]
) -> None:
    """All that goes out counts, whether it was admitted before, during or after; the books balance in the end."""
    done = asyncio.Event()

    def sent() -> int:
        return sum(node.sent for node in nodes)

    load = [asyncio.create_task(node.keep_asking(done)) for node in nodes for _ in range(3)]
    await wait_until(lambda: sent() > 50)
    size = server.log_size
    await wait_until(lambda: sent() > 120)
    lose(server, size)
    await wait_until(lambda: all(node.ledger.is_asserted and node.watch.connected for node in nodes))
    await wait_until(lambda: all(node.watch.mode == "exact" for node in nodes), what="the hold ends")
    await wait_until(lambda: all(Code.AT_LIMIT in node.codes for node in nodes), what="the limit is reached")
    await asyncio.sleep(0.1)
    done.set()
    await asyncio.gather(*load)
    for node in nodes:
        await node.batcher.flush()
    books = await _books(nodes[0])

    assert LIMIT * 0.7 < sent() <= LIMIT
    assert books.is_balanced
    (row,) = books.rows
    # whose admission was in doubt when the server went gave it back: it is booked, and never went out
    assert sent() <= row.admitted <= sent() + len(load)
    assert (row.settled, row.in_flight) == (row.admitted, 0)
    assert all(node.terms.corrected["terms"] == 1 for node in nodes)
    if lose is not _nothing:
        assert sum(node.terms.corrected["admissions"] for node in nodes) > 40


async def _books(node: Node) -> DomainBooks:
    return await read_books(node.store, "alpha")


async def test_a_held_node_says_so_and_a_corrected_one_goes_on(
    server: ValkeyServer, nodes: list[Node]
) -> None:
    """The mode is that of an outage while nobody may be admitted, and exact again by itself."""
    one, two = nodes
    assert await one.attempt() is Code.ADMITTED
    assert await two.attempt() is Code.ADMITTED
    await one.batcher.flush()
    server.restart(keep_data=False)
    await wait_until(lambda: one.watch.connected and one.watch.held, what="the loss is seen")
    code = await one.attempt()
    mode = one.watch.mode
    await wait_until(
        lambda: one.watch.mode == "exact" and two.watch.mode == "exact", what="all is well again"
    )

    assert (code, mode) == (Code.HELD, "leased")
    assert await one.attempt() is Code.ADMITTED


async def test_a_standby_that_only_the_nodes_remember_is_set_again(
    server: ValkeyServer, nodes: list[Node]
) -> None:
    """An operator's order was lost with the tail; the nodes had seen it."""
    one, two = nodes
    for node in nodes:
        await node.attempt()
        await node.batcher.flush()
    size = server.log_size
    await order(one.store, "alpha", kind="model", name=SMALL, action="deactivate")
    spec = TOPOLOGY.models[SMALL]
    for node in nodes:
        node.snapshot.refresh_all()
    await wait_until(lambda: all(n.snapshot.model(spec).status == Status.STANDBY for n in nodes))
    server.lose_tail(size)
    await wait_until(lambda: all(node.terms.corrected["terms"] for node in nodes))
    await wait_until(lambda: one.watch.mode == "exact")
    await asyncio.sleep(0.1)

    assert await one.attempt() is Code.STANDBY
    assert sum(node.terms.corrected["states"] for node in nodes) == 1
    assert {node.snapshot.model(spec).status for node in nodes} == {Status.STANDBY}


async def test_a_give_back_waits_for_the_assertion(server: ValkeyServer, nodes: list[Node]) -> None:
    """Settlements that came while the domain was held are applied behind it, none is lost."""
    one, _ = nodes
    await one.attempt()
    ask = Ask("n1.open", SMALL, "chat", 0, 0, 0, 60_000)
    assert (await one.batcher.admit(ask, POOL)).code is Code.ADMITTED
    server.restart(keep_data=False)
    one.batcher.settle(Settlement("n1.open", SMALL, POOL, Outcome.NEUTRAL, flags=NOT_SENT))
    await one.batcher.flush()
    books = await _books(one)

    assert one.terms.corrected["admissions"] == 2
    assert books.is_balanced
    assert sum(row.in_flight for row in books.rows) == 0
