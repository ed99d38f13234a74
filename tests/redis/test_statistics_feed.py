"""Statistics that leave the cluster: told after they were stored, kept as long as the configuration says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from scheduler.jobs.flush import Flush
from scheduler.jobs.retention import Retention
from scheduler.sinks import SinkError, SqliteSink
from scheduler.sinks.events import EventTarget, TargetError
from scheduler.sinks.statistics import StatisticsFeed, make_feed
from shared_state.config.observability import StatisticsConfig
from shared_state.statistics import MinuteRow
from shared_state.store import Store
from tests.redis.ground import Only
from tests.redis.scheduler_ground import DOMAIN, MODEL, POOL, FlakySink, make_topology, put_minute
from tests.support.valkey import ValkeyServer

CLOSED_MINUTE = int(time.time()) // 60 - 10


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    store = Store(valkey_server.url, namespace=namespace, timeout_s=5.0)
    yield store
    await store.aclose()


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[SqliteSink]:
    sink = SqliteSink(tmp_path / "statistics.db")
    await sink.open()
    yield sink
    await sink.aclose()


async def test_each_flush_tells_the_sums_of_every_scope_that_is_wanted(
    store: Store, sink: SqliteSink, tmp_path: Path
) -> None:
    """A line for model and pool, none for providers; gates, which count the same calls, have none."""
    path = tmp_path / "statistics.jsonl"
    config = StatisticsConfig(connector="modelmesh.json-log.v1", path=str(path), scopes=["model", "pool"])
    counts = {"attempts": 4, "ok": 3, "failed": 1, "tokens_in": 10, "cost": 2 * 10**9, "latency_ms": 300}
    await put_minute(store, CLOSED_MINUTE, **counts, latency_le_4=3)
    feed = make_feed(config, make_topology())
    await Flush(store, Only(DOMAIN), sink, feed=feed).run(1)
    assert feed is not None
    await feed.tell([MinuteRow("pool:chat", MODEL, POOL, CLOSED_MINUTE, {"attempts": 4})])
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]

    assert [(line["scope"], line["name"]) for line in lines] == [("model", MODEL), ("pool", POOL)]
    wanted = {"requests_total": 4, "requests_success": 3, "cost_total": 2.0, "latency_avg": 100.0}
    assert wanted.items() <= lines[0].items()
    assert lines[0]["id"] == f"{DOMAIN}/{CLOSED_MINUTE}/model/{MODEL}"


async def test_what_was_not_stored_is_not_told(store: Store, sink: SqliteSink) -> None:
    """The storage comes first; the next flush tells it once."""
    heard = Memory()
    feed = StatisticsFeed(make_topology(), ["model"], heard)
    flaky = FlakySink(sink)
    flaky.fails_before = True
    await put_minute(store, CLOSED_MINUTE, attempts=1)
    with pytest.raises(SinkError):
        await Flush(store, Only(DOMAIN), flaky, feed=feed).run(1)
    assert heard.records == []
    flaky.fails_before = False
    for _ in range(2):
        await Flush(store, Only(DOMAIN), flaky, feed=feed).run(1)

    assert [record["requests_total"] for record in heard.records] == [1]


async def test_a_target_that_is_away_holds_up_no_flush(store: Store, sink: SqliteSink) -> None:
    """Statistics are stored all the same; their records wait for the next flush."""
    heard = Memory(fails=1)
    feed = StatisticsFeed(make_topology(), ["model"], heard)
    for ago in (1, 0):
        await put_minute(store, CLOSED_MINUTE - ago, attempts=1 + ago)
        await Flush(store, Only(DOMAIN), sink, feed=feed).run(1)
    (total,) = await sink.totals(0, 1e12)

    assert total.metrics["attempts"] == 3
    assert [record["requests_total"] for record in heard.records] == [2, 1]


async def test_old_statistics_leave_the_storage(store: Store, sink: SqliteSink) -> None:
    """By the store's clock, whatever this machine believes."""
    now = int(time.time()) // 60
    await sink.write([MinuteRow(DOMAIN, MODEL, POOL, now - age, {"attempts": 1}) for age in (0, 50, 70)])
    await Retention(store, sink, kept_s=3600).run(1)
    (total,) = await sink.totals(0, 1e12)

    assert total.metrics["attempts"] == 2


class Memory(EventTarget):
    """Remembers what it was told; fails at first."""

    def __init__(self, fails: int = 0) -> None:
        self.records: list[dict[str, Any]] = []
        self.fails = fails

    async def tell(self, records: Sequence[dict[str, Any]]) -> None:
        if self.fails:
            self.fails -= 1
            raise TargetError("away")
        self.records += records
