"""Whole schedulers: two of them on one server, one that is frozen, one whose Redis comes and goes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest

from scheduler.service import SchedulerService
from scheduler.sinks import SqliteSink
from shared_state.domains import recover_due
from shared_state.errors import FencedOffError
from shared_state.leadership import read_lead
from shared_state.statistics import minutes_of
from shared_state.store import STORE_ERRORS, Store
from tests.redis.scheduler_ground import DOMAIN, Node, make_topology, news_of, put_minute, write_config
from tests.support.preloaded import PreloadedProcess
from tests.support.processes import ChildProcess, wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import ValkeyServer

CLOSED_MINUTE = int(time.time()) // 60 - 10
Launch = Callable[..., SchedulerService]


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    store = Store(valkey_server.url, namespace=namespace)
    yield store
    await store.aclose()


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[SqliteSink]:
    sink = SqliteSink(tmp_path / "statistics.db")
    await sink.open()
    yield sink
    await sink.aclose()


@pytest.fixture
async def launch(store: Store, sink: SqliteSink) -> AsyncIterator[Launch]:
    """Start schedulers in this process: ``launch("a")``; they stop with the test."""
    services: list[SchedulerService] = []

    def start(owner: str, *, on: Store = store, lease_s: float = 0.6) -> SchedulerService:
        service = SchedulerService(on, make_topology(lease_s=lease_s), sink, owner=owner)
        service.start()
        services.append(service)
        return service

    yield start
    for service in services:
        await service.stop()


async def test_the_leader_does_all_the_jobs_and_reports_them(
    launch: Launch, store: Store, sink: SqliteSink
) -> None:
    """Recovery, reaper and flush run at once, and the status page can show it."""
    node = Node(store, make_topology(), "n")
    await node.rate_limit(for_ms=1)
    await put_minute(store, CLOSED_MINUTE, attempts=3)

    launch("a")
    await wait_until(lambda: news_of(store, "model_activated"))
    await wait_until(lambda: sink.totals(0, 1e12))
    jobs = await wait_until(lambda: _jobs(store, at_least=16))

    assert {
        *("audit", "copies", "flush", "leases", "leftovers", "maintenance", "probes"),
        *("reaper", "recovery", "restore", "rests", "selftest", "sweep"),
        *("sync", "health", "retention"),
    } == jobs.keys()
    assert all(job["last_error"] is None and job["runs"] >= 1 for job in jobs.values())


async def test_without_an_interval_nothing_is_copied_or_restored(store: Store, sink: SqliteSink) -> None:
    """Who wants a Redis that can be emptied gets it."""
    service = SchedulerService(store, make_topology(copy_interval_s=0), sink, owner="a")
    for job in ("copies", "restore"):
        with pytest.raises(KeyError):
            service.reports.of(job)


async def test_a_scheduler_that_ends_flushes_and_hands_over(
    launch: Launch, store: Store, sink: SqliteSink
) -> None:
    """The last closed minutes are stored, the next scheduler leads at once."""
    first = launch("first", lease_s=30.0)
    await asyncio.wait_for(first.leadership.gained.wait(), 10)
    await wait_until(lambda: first.reports.of("flush").runs)
    second = launch("second")
    await put_minute(store, CLOSED_MINUTE, attempts=3)

    await first.stop()

    assert await minutes_of(store, DOMAIN) == []
    assert [total.metrics["attempts"] for total in await sink.totals(0, 1e12)] == [3]
    await asyncio.wait_for(second.leadership.gained.wait(), 10)


async def test_a_leader_cut_off_from_redis_stops_and_the_other_takes_over(
    launch: Launch, store: Store, namespace: str, valkey_server: ValkeyServer
) -> None:
    """And when it is back it stands by; its old token opens nothing any more."""
    async with TcpProxy(valkey_server.unix_socket) as proxy:
        cut_off = Store(proxy.redis_url, namespace=namespace)
        first = launch("first", on=cut_off)
        await asyncio.wait_for(first.leadership.gained.wait(), 10)
        token = first.leadership.token
        second = launch("second")

        proxy.pause()
        await asyncio.wait_for(first.leadership.lost.wait(), 10)
        await asyncio.wait_for(second.leadership.gained.wait(), 10)
        runs = first.reports.of("recovery").runs
        await wait_until(lambda: second.reports.of("recovery").runs >= 2)
        await proxy.resume()
        with pytest.raises(FencedOffError):
            await recover_due(store, DOMAIN, token=token)
        await asyncio.sleep(0.5)

        assert second.leadership.is_leading
        assert not first.leadership.is_leading
        assert first.reports.of("recovery").runs == runs
        await first.stop()
        await cut_off.aclose()


async def test_a_scheduler_waits_for_a_redis_that_is_not_there_yet(launch: Launch, tmp_path: Path) -> None:
    """It starts all the same, and works as soon as it can; again after an outage."""
    with closing(ValkeyServer()) as server:
        own = Store(server.url)
        service = launch("early", on=own)
        await asyncio.sleep(0.3)
        assert not service.leadership.is_leading

        server.start()
        await asyncio.wait_for(service.leadership.gained.wait(), 10)
        server.kill()
        await asyncio.wait_for(service.leadership.lost.wait(), 10)
        server.start()
        await asyncio.wait_for(service.leadership.gained.wait(), 10)
        runs = service.reports.of("recovery").runs
        await wait_until(lambda: service.reports.of("recovery").runs > runs + 1)

        assert service.reports.of("recovery").last_error is None
        await service.stop()
        await own.aclose()


class TestProcess:
    @pytest.fixture
    def config(self, tmp_path: Path, namespace: str) -> Path:
        return write_config(tmp_path, namespace=namespace, lease_s=1.0)

    @pytest.fixture
    def start(
        self, config: Path, tmp_path: Path, valkey_server: ValkeyServer
    ) -> Iterator[Callable[..., ChildProcess]]:
        """Run a scheduler; it ends with the test."""
        with ExitStack() as stack:

            def launch(name: str) -> ChildProcess:
                words = ["-c", config, "--name", name]
                environ = {"MODELMESH_REDIS_URL": valkey_server.url, "MODELMESH_HOME": str(tmp_path)}
                return stack.enter_context(
                    closing(PreloadedProcess("scheduler", words, name=name, env=environ))
                )

            yield launch

    async def test_sigterm_hands_over_and_exits_0(
        self, start: Callable[..., ChildProcess], store: Store
    ) -> None:
        """The lead is free again, the statistics file is there, nothing was complained about."""
        await put_minute(store, CLOSED_MINUTE, attempts=1)
        process = start("only")
        await wait_until(lambda: _owner(store))
        await wait_until(lambda: _is_flushed(store))

        assert await process.terminate() == 0
        assert await _owner(store) == ""
        assert 'event="scheduler ends"' in process.log()
        assert "level=error" not in process.log()
        assert "Traceback" not in process.log()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_second_signal_ends_at_once(
        self, start: Callable[..., ChildProcess], store: Store, tmp_path: Path, number: signal.Signals
    ) -> None:
        """Even while the first is still being obeyed: here somebody has locked the statistics file."""
        process = start("patient")
        await wait_until(lambda: _has_run(store, "flush"))
        with closing(sqlite3.connect(tmp_path / "statistics.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            await put_minute(store, CLOSED_MINUTE, attempts=1)
            process.send(number)
            await asyncio.sleep(0.3)
            assert process.is_running
            process.send(number)

            assert await process.wait() == -number

    async def test_without_a_redis_url_it_says_what_is_missing(self, config: Path) -> None:
        """``python -m scheduler``: exit code 2, one sentence, no stack trace."""
        command = [sys.executable, "-m", "scheduler", "-c", config]
        with closing(ChildProcess(command, env={"MODELMESH_REDIS_URL": ""})) as process:
            assert await process.wait() == 2
            assert "redis.url: a scheduler needs it" in process.log()
            assert "Traceback" not in process.log()

    async def test_a_leader_that_was_frozen_has_no_effect_when_it_wakes_up(
        self, start: Callable[..., ChildProcess], store: Store
    ) -> None:
        """Another leads by then; what became due in between happens once, and goes on happening once."""
        node = Node(store, make_topology(), "n")
        first = start("first")
        await first.wait_line("event=leads owner=first")
        second = start("second")
        await node.rate_limit(for_ms=300)

        first.stop()
        await second.wait_line("event=leads owner=second")
        await wait_until(lambda: news_of(store, "model_activated"))
        await node.rate_limit(for_ms=50)
        first.cont()
        await first.wait_line('event="leads no longer"')
        await wait_until(lambda: _has_news(store, "model_activated", 2))
        await asyncio.sleep(0.5)

        assert (await _owner(store)).startswith("second.")
        assert len(await news_of(store, "model_activated")) == 2
        assert second.is_running
        assert await first.terminate() == 0
        assert (await _owner(store)).startswith("second.")


async def _jobs(store: Store, *, at_least: int) -> dict[str, dict[str, object]] | None:
    raw = await store.client.hgetall(store.keys.jobs)
    return (
        {name.decode(): orjson.loads(report) for name, report in raw.items()}
        if len(raw) >= at_least
        else None
    )


async def _owner(store: Store) -> str:
    try:
        return (await read_lead(store)).get("owner", "")
    except STORE_ERRORS:
        return ""


async def _is_flushed(store: Store) -> bool:
    return not await minutes_of(store, DOMAIN)


async def _has_run(store: Store, job: str) -> bool:
    return bool(await store.client.hexists(store.keys.jobs, job))


async def _has_news(store: Store, kind: str, count: int) -> bool:
    return len(await news_of(store, kind)) >= count
