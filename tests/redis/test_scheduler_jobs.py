"""The scheduler's jobs on a real server: recovery, the reaper, the flush."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from scheduler.contact import Contact
from scheduler.jobs.flush import Flush
from scheduler.jobs.reaper import Reaper
from scheduler.jobs.recovery import Recovery
from scheduler.jobs.sequences import Sweep
from scheduler.pulses import Pulses
from scheduler.sinks import SinkError, SqliteSink
from shared_state.books import read_books
from shared_state.domains import Pulse, order, read_domain, read_nodes_on_record
from shared_state.errors import FencedOffError
from shared_state.registry import NODE_LEASE_S, Registry
from shared_state.statistics import minutes_of
from shared_state.store import Store
from shared_state.topology import Topology
from tests.redis.ground import Only
from tests.redis.scheduler_ground import (
    DOMAIN,
    MODEL,
    FlakySink,
    Node,
    make_topology,
    news_of,
    put_minute,
)
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer

TOKEN = 1000
LONG_AGO = 60.0
CLOSED_MINUTE = int(time.time()) // 60 - 10


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    store = Store(valkey_server.url, namespace=namespace)
    yield store
    await store.aclose()


@pytest.fixture(scope="module")
def topology() -> Topology:
    return make_topology()


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[SqliteSink]:
    sink = SqliteSink(tmp_path / "statistics.db")
    await sink.open()
    yield sink
    await sink.aclose()


class Watch:
    """A monotonic clock that a test moves, to have watched for long without waiting."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TestRecovery:
    async def test_what_is_due_comes_back(self, store: Store, topology: Topology) -> None:
        """A rate limit that has passed is lifted and announced, once; one that has not is left alone."""
        recovery = Recovery(store, Pulses(store, [DOMAIN], fresh_s=0))
        await Node(store, topology, "n").rate_limit(for_ms=100)
        await recovery.run(TOKEN)
        assert not await news_of(store, "model_activated")

        async def recovered() -> bool:
            await recovery.run(TOKEN)
            return bool(await news_of(store, "model_activated"))

        await wait_until(recovered)
        await recovery.run(TOKEN)

        assert len(await news_of(store, "model_activated")) == 1
        _, state = await read_domain(store, topology.domains[DOMAIN])
        assert state.models[MODEL].status == "active"

    async def test_a_quiet_domain_costs_no_script(
        self, store: Store, topology: Topology, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only the first look of a lead goes to every domain; then only where something is due."""
        recovery = Recovery(store, Pulses(store, [DOMAIN, "other"], fresh_s=0))
        scripts: list[tuple[str, ...]] = []
        run = store.run

        async def noted(script: str, keys: Sequence[str], *args: Any) -> Any:
            scripts.append((script, *keys))
            return await run(script, keys, *args)

        await recovery.run(TOKEN)
        monkeypatch.setattr(store, "run", noted)
        await recovery.run(TOKEN)
        assert scripts == []

        await order(store, DOMAIN, kind="model", name=MODEL, action="deactivate", for_s=0.001)
        scripts.clear()

        async def recovered() -> bool:
            await recovery.run(TOKEN)
            return bool(scripts)

        await wait_until(recovered, what="the model to be due")
        assert scripts == [("recover", store.keys.domain(DOMAIN))]

    async def test_several_share_one_reading(self, store: Store) -> None:
        """Of the same moment."""
        pulses = Pulses(store, [DOMAIN])
        one, other = await asyncio.gather(pulses.read(), pulses.read())

        assert one is other
        assert one == {DOMAIN: Pulse(0, 0, 0)}

    async def test_an_older_token_moves_nothing(self, store: Store, topology: Topology) -> None:
        """A leader that slept finds the scripts closed."""
        await Recovery(store, Pulses(store, [DOMAIN], fresh_s=0)).run(TOKEN + 1)
        await order(store, DOMAIN, kind="model", name=MODEL, action="deactivate", for_s=0.001)

        with pytest.raises(FencedOffError):
            await Recovery(store, Pulses(store, [DOMAIN], fresh_s=0)).run(TOKEN)

        assert not await news_of(store, "model_activated")


class TestReaper:
    @pytest.fixture
    def watch(self) -> Watch:
        return Watch()

    @pytest.fixture
    def contact(self, store: Store, watch: Watch) -> Contact:
        return Contact(store.masked_url, clock=watch)

    @pytest.fixture
    def reaper(self, store: Store, contact: Contact) -> Reaper:
        return Reaper(store, Only(DOMAIN), contact=contact)

    async def test_a_dead_node_is_buried_and_its_books_balance(
        self, store: Store, topology: Topology, reaper: Reaper, watch: Watch
    ) -> None:
        """Its reservations are abandoned, those of the living stay; then it leaves the registry."""
        dead, alive = Node(store, topology, "dead"), Node(store, topology, "alive")
        lost, kept = [await dead.admit() for _ in range(3)], await alive.admit()
        await dead.beat(seconds_ago=LONG_AGO)
        await alive.beat()

        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S + 1)

        books = await read_books(store, DOMAIN)
        assert books.is_balanced
        assert [(row.abandoned, row.in_flight) for row in books.rows] == [(3, 1)]
        assert [node.info.id for node in await Registry(store).nodes()] == ["alive"]
        assert not await dead.settle(lost[0])
        assert await alive.settle(kept)

    async def test_nobody_is_declared_dead_before_we_have_watched_for_a_lease(
        self, store: Store, topology: Topology, reaper: Reaper, watch: Watch
    ) -> None:
        """After a start, every node may look dead only because the store was away."""
        node = Node(store, topology, "dead")
        await node.admit()
        await node.beat(seconds_ago=LONG_AGO)

        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S - 1)

        assert await in_flight(store) == 1
        await watch_and_reap(reaper, watch, seconds=2)
        assert await in_flight(store) == 0

    async def test_a_failed_call_of_ours_gives_everybody_another_lease(
        self, store: Store, topology: Topology, reaper: Reaper, contact: Contact, watch: Watch
    ) -> None:
        """A store that was frozen for us was frozen for their heartbeats."""
        node = Node(store, topology, "dead")
        await node.admit()
        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S + 1)
        await node.beat(seconds_ago=LONG_AGO)

        contact.lose(TimeoutError())
        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S - 1)

        assert await in_flight(store) == 1

    async def test_a_sleep_of_ours_gives_everybody_another_lease(
        self, store: Store, topology: Topology, reaper: Reaper, watch: Watch
    ) -> None:
        """We cannot tell what happened while we were stopped."""
        node = Node(store, topology, "dead")
        await node.admit()
        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S + 1)
        await node.beat(seconds_ago=LONG_AGO)

        watch.now_s += 30
        await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S - 1)

        assert await in_flight(store) == 1

    async def test_an_older_token_buries_nobody(
        self, store: Store, topology: Topology, reaper: Reaper, watch: Watch
    ) -> None:
        """A leader that slept neither abandons nor strikes from the registry."""
        await Recovery(store, Pulses(store, [DOMAIN], fresh_s=0)).run(TOKEN + 1)
        node = Node(store, topology, "n")
        await node.admit()
        await node.beat(seconds_ago=LONG_AGO)

        with pytest.raises(FencedOffError):
            await watch_and_reap(reaper, watch, seconds=NODE_LEASE_S + 1)

        assert await in_flight(store) == 1
        assert len(await Registry(store).nodes()) == 1


class TestFlush:
    async def test_closed_minutes_are_moved_and_the_current_one_is_not(
        self, store: Store, topology: Topology, sink: SqliteSink
    ) -> None:
        """What the settle script still writes to stays in Redis."""
        node = Node(store, topology, "n")
        await node.settle(await node.admit())
        (current,) = await minutes_of(store, DOMAIN)
        await put_minute(store, current - 2, attempts=3, ok=3, latency_le_2=3)
        await put_minute(store, current - 1000, attempts=1, failed=1)

        await Flush(store, Only(DOMAIN), sink).run(TOKEN)

        (total,) = await sink.totals(0, 1e12)
        assert total.metrics["attempts"] == 4
        assert total.metrics["latency_le_2"] == 3
        assert [current] == await minutes_of(store, DOMAIN)
        assert await store.client.ttl(store.keys.statistics(DOMAIN, current - 2)) > 0
        assert await store.client.ttl(store.keys.statistics(DOMAIN, current)) == -1

    @pytest.mark.parametrize("where", ["fails_before", "fails_after"])
    async def test_a_crash_around_the_write_loses_and_doubles_nothing(
        self, store: Store, sink: SqliteSink, where: str
    ) -> None:
        """Whether the sink had stored the minute or not, the next flush makes it right."""
        flaky = FlakySink(sink)
        await put_minute(store, CLOSED_MINUTE, attempts=5, ok=5)
        setattr(flaky, where, True)
        with pytest.raises(SinkError):
            await Flush(store, Only(DOMAIN), flaky).run(TOKEN)
        assert await minutes_of(store, DOMAIN) == [CLOSED_MINUTE]

        setattr(flaky, where, False)
        await Flush(store, Only(DOMAIN), flaky).run(TOKEN)

        (total,) = await sink.totals(0, 1e12)
        assert total.metrics["attempts"] == 5
        assert await minutes_of(store, DOMAIN) == []

    async def test_a_long_absence_is_made_up_in_a_few_writes(self, store: Store, sink: SqliteSink) -> None:
        """Two hours without a scheduler are not 120 transactions."""
        for ago in range(120):
            await put_minute(store, CLOSED_MINUTE - ago, attempts=1)
        counting = FlakySink(sink)

        await Flush(store, Only(DOMAIN), counting).run(TOKEN)

        (total,) = await sink.totals(0, 1e12)
        assert total.metrics["attempts"] == 120
        assert counting.writes <= 4

    async def test_two_flushes_at_once_come_to_the_same_numbers(
        self, store: Store, sink: SqliteSink, tmp_path: Path
    ) -> None:
        """A leader that slept in the middle of a flush goes on with it after another has done the same."""
        minute = CLOSED_MINUTE
        await put_minute(store, minute, attempts=2, ok=2)

        class Overtaken(FlakySink):
            async def write(self, rows: object) -> None:
                await Flush(store, Only(DOMAIN), sink).run(TOKEN + 1)
                await sink.write(rows)  # type: ignore[arg-type]

        await Flush(store, Only(DOMAIN), Overtaken(sink)).run(TOKEN)

        (total,) = await sink.totals(0, 1e12)
        assert total.metrics["attempts"] == 2


async def watch_and_reap(reaper: Reaper, watch: Watch, *, seconds: float) -> None:
    """One look a second, for as long as the test says that time passes."""
    for _ in range(round(seconds)):
        watch.now_s += 1
        await reaper.run(TOKEN)


async def in_flight(store: Store) -> int:
    books = await read_books(store, DOMAIN)
    assert books.is_balanced
    return sum(row.in_flight for row in books.rows)


# -- sequences


async def test_nodes_that_are_gone_are_forgotten(store: Store, topology: Topology) -> None:
    """Two looks in a row must have missed them; a node that is registered stays."""
    alive, gone = (Node(store, topology, name) for name in ("n1", "n2"))
    for node in (alive, gone):
        await node.settle(await node.admit())
    await alive.beat()
    sweep = Sweep(store, Only(DOMAIN))
    await sweep.run(TOKEN)
    after_one = await read_nodes_on_record(store, [DOMAIN])
    await sweep.run(TOKEN)

    assert after_one == {DOMAIN: {"n1", "n2"}}
    assert await read_nodes_on_record(store, [DOMAIN]) == {DOMAIN: {"n1"}}


async def test_a_scheduler_that_lost_the_lead_forgets_nobody(store: Store, topology: Topology) -> None:
    """Its token is older than one that was seen."""
    await Node(store, topology, "n2").admit()
    await Sweep(store, Only(DOMAIN)).run(TOKEN)
    sweep = Sweep(store, Only(DOMAIN))
    await store.client.hset(store.keys.domain(DOMAIN), "fence", TOKEN + 1)
    await sweep.run(TOKEN)

    with pytest.raises(FencedOffError):
        await sweep.run(TOKEN)
    assert await read_nodes_on_record(store, [DOMAIN]) == {DOMAIN: {"n2"}}
