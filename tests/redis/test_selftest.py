"""The store's self-test on real servers: its own options, a sick one, a forbidden CONFIG, what nodes are told."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, suppress
from pathlib import Path

import pytest

from modelmesh.embedded import EmbeddedStore
from node.findings import StoreFindings
from scheduler.jobs.selftest import SelfTest
from shared_state.findings import REPORT_TTL_S, Severity, StoreReport, read_report
from shared_state.selftest import read_servers
from shared_state.store import STORE_ERRORS, Store
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer
from tests.support.valkey_fleet import ClusterFleet, SentinelFleet
from tests.unit.node.house import Watch

COMPOSED = Path(__file__).parents[2] / "compose" / "redis.conf"
#: What the tests' own server cannot take over from the composition: where it listens and keeps its data.
_OWN = {"bind", "protected-mode", "dir"}


@pytest.fixture
def start_server() -> Iterator[Callable[..., ValkeyServer]]:
    servers: list[ValkeyServer] = []

    def start(*options: str) -> ValkeyServer:
        servers.append(ValkeyServer(options=options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


async def examine(store: Store, **options: object) -> StoreReport:
    """One self-test, as published."""
    await SelfTest(store, **options).run(1)  # type: ignore[arg-type]
    report = await read_report(store)
    assert report is not None
    return report


def codes(report: StoreReport | None) -> set[str]:
    assert report is not None
    return {finding.code for finding in report.findings}


async def test_the_embedded_server_is_clean() -> None:
    """What `modelmesh serve` starts is as ModelMesh wants it."""
    with tempfile.TemporaryDirectory(prefix="mm-e-") as folder:
        environ = {**os.environ, "XDG_RUNTIME_DIR": folder}
        embedded = EmbeddedStore(Path(folder) / "store", environ=environ, tell=lambda name, line: None)
        await embedded.start()
        try:
            await embedded.wait_ready()
            async with aclosing(Store(embedded.url, timeout_s=5)) as store:
                assert (await examine(store)).findings == ()
        finally:
            await embedded.stop()


async def test_the_composed_server_is_clean(
    start_server: Callable[..., ValkeyServer], namespace: str
) -> None:
    """So is the one of the composition."""
    lines = [line.split(None, 1) for line in COMPOSED.read_text().splitlines() if line and line[0] != "#"]
    options = [part for name, value in lines if name not in _OWN for part in (f"--{name}", value.strip('"'))]
    async with aclosing(Store(start_server(*options).url, namespace=namespace, timeout_s=5)) as store:
        report = await examine(store)
        (facts,) = await read_servers(store, earliest_ms={})

        assert report.findings == ()
        assert facts.max_bytes == 2**30
        assert 0 < await store.command("TTL", store.keys.report) <= REPORT_TTL_S


async def test_a_server_that_loses_counters_is_found_out(
    start_server: Callable[..., ValkeyServer], namespace: str
) -> None:
    """Eviction, no append-only file, memory that runs full."""
    server = start_server("--maxmemory-policy", "allkeys-lru")
    async with aclosing(Store(server.url, namespace=namespace, timeout_s=5)) as store:
        await store.command("SET", "filler", b"x" * 9_000_000)
        used = (await store.command("INFO", "memory"))["used_memory"]
        await store.command("CONFIG", "SET", "maxmemory", round(used / 0.8))

        assert {"eviction_policy", "persistence", "memory"} <= codes(await examine(store))


async def test_a_forbidden_config_is_said_and_does_not_fail(
    start_server: Callable[..., ValkeyServer], namespace: str
) -> None:
    """As on managed services: the command is gone, the rest is examined all the same."""
    server = start_server("--rename-command", "CONFIG", "")
    async with aclosing(Store(server.url, namespace=namespace, timeout_s=5)) as store:
        report = await examine(store)

        assert {"not_visible", "persistence"} == codes(report)
        assert report.count(Severity.INFO) == 1


async def test_a_clock_that_goes_back_is_noticed_also_by_the_next_scheduler(store: Store) -> None:
    """By our own watch, or by the report of the one before us; and our own wall clock is compared."""

    class Watches:
        now_s = 0.0

    selftest = SelfTest(store, clock=lambda: Watches.now_s)
    await selftest.run(1)
    Watches.now_s += 3600  # we have watched for an hour in which the server's clock has hardly moved
    await selftest.run(1)
    report = await read_report(store)
    assert report is not None
    assert "clock_backwards" in codes(report)
    assert "clock_backwards" not in codes(await examine(store))
    assert "clock_skew" in codes(await examine(store, wall=lambda: time.time() + 6))

    ahead = {name: ms + 60_000 for name, ms in report.clocks.items()}
    servers = await read_servers(store, earliest_ms=ahead)
    assert servers[0].earliest_ms - servers[0].time_ms > 50_000


async def test_another_server_is_examined_at_once(
    start_server: Callable[..., ValkeyServer], namespace: str
) -> None:
    """One that came back empty, or with other options; the same one only every hour."""
    server = start_server()
    async with aclosing(Store(server.url, namespace=namespace, timeout_s=5)) as store:
        selftest = SelfTest(store)
        await selftest.run(1)
        await store.command("CONFIG", "SET", "appendonly", "yes")
        await selftest.run(1)
        assert "persistence" in codes(await read_report(store))
        await store.command("DEL", store.keys.report)
        await selftest.run(1)
        assert "persistence" not in codes(await read_report(store))
        raw = await store.command("GET", store.keys.report)
        server.restart(keep_data=False)
        with suppress(*STORE_ERRORS):  # the connection of before
            await store.ping()
        await store.command("SET", store.keys.report, raw)
        await selftest.run(1)

        assert "persistence" in codes(await read_report(store))


async def test_nodes_are_told(store: Store) -> None:
    """At once when they see the store; the summary that everybody may read holds no message."""
    await SelfTest(store).run(1)
    watch = Watch()
    watch.on_return = lambda callback: None  # type: ignore[attr-defined]
    findings = StoreFindings(store, watch)  # type: ignore[arg-type]
    following = asyncio.create_task(findings.run())
    await wait_until(lambda: findings.report is not None)
    following.cancel()

    assert "persistence" in {finding.code for finding in findings.findings}
    assert {"code": "persistence", "severity": "warning"} in findings.brief()
    assert all(row.keys() == {"code", "severity"} for row in findings.brief())


async def test_a_report_of_another_release_is_none(store: Store) -> None:
    """Rather than an error on every look."""
    for raw in (b"", b"[]", b"{}", b'{"checked_ms": 1, "findings": [{"code": "x"}], "clocks": {}}'):
        await store.command("SET", store.keys.report, raw)
        assert await read_report(store) is None


@pytest.mark.topologies
@pytest.mark.parametrize("kind", [SentinelFleet, ClusterFleet])
async def test_every_primary_is_examined(kind: type[SentinelFleet | ClusterFleet], namespace: str) -> None:
    """One under sentinels, each master of a cluster by its address; replicas are seen."""
    with closing(kind()) as fleet:
        await fleet.start()
        async with aclosing(Store(fleet.url, namespace=namespace, timeout_s=5)) as store:
            report = await examine(store)
            servers = await read_servers(store, earliest_ms={})

        assert len(report.clocks) == (1 if kind is SentinelFleet else 3)
        assert all(len(facts.replicas) == 1 for facts in servers)
        assert ("min_replicas" in codes(report)) is (kind is SentinelFleet)
        assert len([f for f in report.findings if f.code == "persistence"]) == len(servers)


@pytest.fixture
async def store(start_server: Callable[..., ValkeyServer], namespace: str) -> AsyncIterator[Store]:
    async with aclosing(Store(start_server().url, namespace=namespace, timeout_s=5)) as store:
        yield store
