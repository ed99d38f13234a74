"""The order of a node's batches: what arrives late changes nothing, whatever overtook it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from node.batch import DomainBatcher
from node.watch import StoreWatch
from shared_state.domains import next_lease_ends
from shared_state.ledger import Amounts, Code, LeaseWish
from shared_state.store import Store
from tests.redis.ground import DOMAIN, SMALL, Caller, make_domain, make_pool
from tests.support.processes import wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import ValkeyServer

TIMEOUT_S = 0.15
LATE_S = 0.6
ONE = Amounts(1, 0, 0, 0, 0)


class LateNode(Caller):
    """A node whose way to the server can become slow; what it sent then arrives later, after it gave up waiting."""

    def __init__(self, store: Store, proxy: TcpProxy, direct: Store) -> None:
        super().__init__(store, make_domain(small={"rpm": 10}))
        self.proxy = proxy
        self.direct = direct
        self.watch = StoreWatch(store, on_loss="leased")
        self.batcher = DomainBatcher(self.ledger, self.watch, on_reply=lambda _: None)

    async def sends_late(self) -> None:
        """Asks for admission; the deadline passes, and the ask is still on its way."""
        self.proxy.delay_s = LATE_S
        verdict = await self.batcher.admit(self.ask(), make_pool())
        self.proxy.delay_s = 0.0
        assert (verdict.code, verdict.in_doubt) == (Code.STORE_AWAY, True)

    async def scripts_run(self) -> int:
        """How many scripts the server has carried out."""
        stats = await self.direct.client.info("commandstats")
        return int(stats["cmdstat_fcall"]["calls"])

    async def in_flight(self) -> int:
        return int(await self.direct.client.zcard(self.store.keys.flight(DOMAIN)))


@pytest.fixture
async def node(
    valkey_server: ValkeyServer, namespace: str, open_store: Callable[..., Store]
) -> AsyncIterator[LateNode]:
    async with (
        TcpProxy(valkey_server.unix_socket) as proxy,
        aclosing(Store(proxy.redis_url, namespace=namespace, timeout_s=TIMEOUT_S)) as store,
    ):
        node = LateNode(store, proxy, open_store())
        watching = asyncio.create_task(node.watch.run())
        await wait_until(lambda: node.watch.connected)
        reservation, _ = await node.admit()  # the server knows the scripts from now on
        await node.settle(reservation, pool=make_pool())
        yield node
        watching.cancel()
        await asyncio.wait([watching])


async def test_an_admission_that_arrives_after_its_give_back_changes_nothing(node: LateNode) -> None:
    """The settlement that gives it back names the sequence that it voids; nothing stays in flight."""
    before = await node.scripts_run()
    await node.sends_late()
    await node.batcher.flush()
    await wait_until(lambda: _have_run(node, before + 2), what="the late admission arrives")

    assert await node.in_flight() == 0
    assert (await node.used())[SMALL, "rpm"][0] == 1
    assert (await node.books()).is_balanced


async def test_an_admission_that_arrives_after_the_next_one_changes_nothing(node: LateNode) -> None:
    """A younger sequence has been there; the give-back may still be waiting."""
    before = await node.scripts_run()
    await node.sends_late()
    _, verdict = await node.admit()
    assert verdict.code is Code.ADMITTED
    await node.batcher.flush()
    await wait_until(lambda: _have_run(node, before + 3), what="the late admission arrives")

    assert await node.in_flight() == 1
    assert (await node.used())[SMALL, "rpm"][0] == 2


async def test_a_node_that_begins_again_under_its_name_goes_on_behind_the_last_sequence(bench) -> None:
    """It is told what stands on record, and its first batch is applied all the same."""
    first = bench(small={"rpm": 10})
    await first.admit_many(3)
    await first.admit_many(3)
    again = Caller(first.store, first.domain, node=first.node)
    _, verdict = await again.admit()

    assert verdict.code is Code.ADMITTED
    assert (await again.used())[SMALL, "rpm"][0] == 7


async def test_batches_that_overtake_each_other_are_all_applied(open_store: Callable[..., Store]) -> None:
    """One ledger on many connections: what came too late is sent again, once."""
    caller = Caller(open_store(), make_domain(small={"rpm": 40}))
    batches = await asyncio.gather(*(caller.admit_many(2) for _ in range(30)))

    assert sum(verdict.code is Code.ADMITTED for batch in batches for verdict in batch) == 40
    assert (await caller.used())[SMALL, "rpm"][0] == 40
    assert (await caller.books()).is_balanced


async def test_a_late_renewal_does_not_bring_a_lease_back(bench, steered) -> None:
    """The node has given everything up since; what it wanted before must not be held for nobody."""
    node = bench(small={"rpm": 10})
    wants, nothing = (LeaseWish(SMALL, Amounts(), Amounts(), count, ONE) for count in (4, 0))
    await node.ledger.renew_leases([wants], sequence=2, life_ms=60_000, share=1)
    await node.ledger.renew_leases([nothing], sequence=3, life_ms=60_000, share=1)
    late = await node.ledger.renew_leases([wants], sequence=2, life_ms=60_000, share=1)

    assert late == [Amounts()]
    assert await next_lease_ends(steered, [node.domain.id]) == {node.domain.id: float("inf")}


async def _have_run(node: LateNode, count: int) -> bool:
    return await node.scripts_run() >= count
