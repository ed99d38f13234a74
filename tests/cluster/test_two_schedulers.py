"""Two schedulers, the leader frozen for longer than its lease again and again: whatever they do happens once."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scheduler.sinks import SqliteSink
from shared_state.store import Store
from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import mesh, pool
from tests.support.processes import ChildProcess, wait_until

pytestmark = pytest.mark.cluster

_LEASE_S = 0.6
_FLUSH_S = 0.15
_ROUNDS = 4
_DOMAIN, _MODEL, _POOL = "watched-alpha", "watched.alpha", "watched"
_LONG_AGO = int(time.time()) // 60 - 50


class Effects:
    """What schedulers bring about, counted where it arrives."""

    def __init__(self, cluster: Cluster, store: Store, storage: Path) -> None:
        self._cluster = cluster
        self._store = store
        self._storage = storage
        self.attempts = 0

    async def close_a_minute(self) -> None:
        """Statistics of a minute that is over, as settlements would have left them."""
        minute, attempts = _LONG_AGO + self.attempts, self.attempts + 1
        key = self._store.keys.statistics(_DOMAIN, minute)
        await self._store.client.hset(key, f"{_MODEL}\t{_POOL}\tattempts", str(attempts))
        await self._store.client.zadd(self._store.keys.minutes(_DOMAIN), {str(minute): minute})
        self.attempts += 1

    async def rest(self, for_s: float) -> None:
        """Both models are taken out for a while; a scheduler brings each back once."""
        for model in (_MODEL, "watched.beta"):
            await self._cluster.ops(f"models/{model}/deactivate", order={"for_s": for_s})

    async def stored(self) -> int:
        """Attempts in the durable statistics of those minutes."""
        async with aclosing(SqliteSink(self._storage)) as sink:
            await sink.open()
            totals = await sink.totals((_LONG_AGO - 1) * 60, (_LONG_AGO + self.attempts + 1) * 60)
            return sum(total.metrics["attempts"] for total in totals if total.domain == _DOMAIN)

    async def events(self, kind: str) -> Counter[str]:
        """How often each domain has told of it."""
        try:
            events = (await self._cluster.ops("status"))["events"]
        except httpx.HTTPError:
            return Counter()
        return Counter(event["domain"] for event in events if event["type"] == kind)


@contextmanager
def _locked(storage: Path) -> Iterator[None]:
    with closing(sqlite3.connect(storage, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


async def _leader(cluster: Cluster) -> ChildProcess | None:
    try:
        leader = (await cluster.ops("status"))["scheduler"]["leader"] or ""
    except httpx.HTTPError:
        return None
    return next((process for process in cluster.schedulers if f".{process.pid}." in leader), None)


async def _other_leader(cluster: Cluster, than: ChildProcess | None = None) -> ChildProcess:
    async def found() -> ChildProcess | None:
        leader = await _leader(cluster)
        return None if leader is than else leader

    return await wait_until(found, 10.0, what="another scheduler to lead")


@pytest.mark.long
async def test_nothing_happens_twice_when_frozen_leaders_wake_up(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Flushed rows, recoveries and a restore: each once, whenever in its work the leader was stopped."""
    storage, chance = tmp_path / "statistics.db", random.Random(5)
    schedule = {"lease": _LEASE_S, "flush_interval": _FLUSH_S, "copy_interval": 0.1}
    config: dict[str, Any] = mesh(
        pool(_POOL, "alpha", "beta"), scheduler=schedule, storage={"path": str(storage)}
    )
    cluster = start_cluster(config, mocks={"alpha": {}, "beta": {}}, nodes=2, schedulers=2)
    async with aclosing(Store(cluster.valkey.url, timeout_s=5.0)) as store, cluster.client() as client:
        effects = Effects(cluster, store, storage)
        for _ in range(_ROUNDS):
            leader = await _other_leader(cluster)
            await effects.rest(_LEASE_S / 2)
            with _locked(storage):  # whoever flushes has read its rows by then, and waits to write them
                await effects.close_a_minute()
                await asyncio.sleep(2 * _FLUSH_S + chance.random() * _LEASE_S)
                leader.stop()
            await effects.close_a_minute()
            await _other_leader(cluster, leader)
            leader.cont()
            await effects.close_a_minute()
            await wait_until(lambda: _all_active(cluster), what="both models to be back")
        wanted = effects.attempts * (effects.attempts + 1) // 2
        await wait_until(lambda: _is(effects.stored, wanted), what="all minutes to be stored")
        recovered = await effects.events("model_activated")

        await asyncio.gather(*(ask(client, _POOL) for _ in range(8)))
        before = (await cluster.settled_books())["totals"]
        await asyncio.sleep(0.5)  # a few copies
        leader = await _other_leader(cluster)
        leader.stop()
        cluster.valkey.restart(keep_data=False)
        await wait_until(lambda: effects.events("state_restored"), 10.0, what="the state to be restored")
        leader.cont()
        await asyncio.sleep(3 * _LEASE_S)
        restored = await effects.events("state_restored")
        after = (await cluster.settled_books())["totals"]

    assert recovered == {_DOMAIN: _ROUNDS, "watched-beta": _ROUNDS}
    assert set(restored.values()) == {1}
    assert await effects.stored() == wanted
    assert after == before


async def _all_active(cluster: Cluster) -> bool:
    return all(model["status"] == "active" for model in (await cluster.ops("models"))["models"])


async def _is(read: Callable[[], Any], wanted: int) -> bool:
    return bool(await read() == wanted)
