"""Two machines with one storage: what Redis loses after the first has died, the second puts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from scheduler.sinks import make_sink
from shared_state.config.storage import StorageConfig
from shared_state.leadership import read_lead
from shared_state.statistics import minutes_of
from shared_state.store import Store
from tests.redis.scheduler_ground import DOMAIN, Node, make_config, make_topology, news_of, put_minute
from tests.redis.test_shifts import CLOSED_MINUTE, Process
from tests.support.postgres import PostgresServer
from tests.support.preloaded import PreloadedProcess
from tests.support.processes import wait_until
from tests.support.sink_contract import attempts
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.storage


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    async with aclosing(Store(valkey_server.url, namespace=namespace, timeout_s=5.0)) as store:
        yield store


@pytest.fixture(params=["postgresql", "s3"])
def storage(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(request.getfixturevalue("database"))
        return {"connector": "modelmesh.postgresql.v1", "url": url}
    place = {"bucket": request.getfixturevalue("bucket"), "region": "us-east-1"}
    return {"connector": "aws.s3.v1", **place, "endpoint": request.getfixturevalue("s3")}


async def test_the_other_machine_puts_back_what_redis_has_lost(
    storage: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    """Reservations of a domain and the versions of the configuration; statistics are in one place, and once."""
    first = Process(store, tmp_path / "one", copy_interval=0.1, storage=storage)
    first.start()
    await wait_until(lambda: first.leads_with(0))
    await Node(store, make_topology(), "n").admit()
    await put_minute(store, CLOSED_MINUTE, attempts=3)
    await wait_until(lambda: _is_copied(store))
    await wait_until(lambda: _is_flushed(store))
    await first.push(first.document())
    await wait_until(lambda: first.leads_with(1))
    await first.stop()
    await _lose(store)
    second = Process(store, tmp_path / "two", copy_interval=0.1, storage=storage)
    second.start()

    await wait_until(lambda: second.leads_with(1))
    (event,) = await wait_until(lambda: news_of(store, "state_restored"))
    await put_minute(store, CLOSED_MINUTE, attempts=3)
    await wait_until(lambda: _is_flushed(store))
    await second.stop()
    left = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    async with aclosing(make_sink(StorageConfig.model_validate(storage))) as sink:
        stored = await attempts(sink)

    assert event["numbers"]["reservations"] == 1  # type: ignore[index]
    assert list(stored.values()) == [3]
    assert left == []


async def test_real_schedulers_store_each_minute_once(
    storage: dict[str, Any], store: Store, namespace: str, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    """Two processes; whoever leads is killed again and again, in the middle of whatever it does."""
    config = make_config(lease_s=0.6, flush_interval_s=0.1, copy_interval_s=0.1, namespace=namespace)
    path = tmp_path / "mesh.json"
    await asyncio.to_thread(path.write_bytes, orjson.dumps({**config, "storage": storage}))
    environ = {"MODELMESH_REDIS_URL": valkey_server.url, "MODELMESH_HOME": str(tmp_path / "home")}
    running: dict[str, PreloadedProcess] = {}
    with ExitStack() as stack:

        def start(name: str) -> None:
            process = PreloadedProcess("scheduler", ["-c", path, "--name", name], name=name, env=environ)
            running[name] = stack.enter_context(closing(process))

        async def leader() -> str:
            owner = (await read_lead(store)).get("owner", "")
            return next((name for name in running if owner.startswith(f"{name}.")), "")

        for number in range(3):
            start(f"s{number}")
            await put_minute(store, CLOSED_MINUTE - number, attempts=number + 1)
            await wait_until(lambda: _is_flushed(store))
            await put_minute(store, CLOSED_MINUTE - 10 - number, attempts=10)
            running.pop(await wait_until(leader)).kill()
        start("last")
        await wait_until(lambda: _is_flushed(store))
        ended = await running["last"].terminate()
        log = running["last"].log()

    async with aclosing(make_sink(StorageConfig.model_validate(storage))) as sink:
        stored = await attempts(sink)

    assert list(stored.values()) == [1 + 2 + 3 + 3 * 10]
    assert ended == 0
    assert "Traceback" not in log
    assert "canary" not in log


async def _is_copied(store: Store) -> bool:
    return bool(await store.client.hget(store.keys.domain(DOMAIN), "copied"))


async def _is_flushed(store: Store) -> bool:
    return not await minutes_of(store, DOMAIN)


async def _lose(store: Store) -> None:
    """All that the cluster has in Redis."""
    namespace = store.keys.versions.partition(":")[0]
    keys = [key async for key in store.client.scan_iter(f"{namespace}:*", count=1000)]
    await store.client.delete(*keys)
