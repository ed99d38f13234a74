"""The scheduler follows the versions of the configuration, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.shifts import Shifts
from scheduler.sinks import SqliteSink
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written, read_config
from shared_state.domains import read_domain
from shared_state.errors import ConfigurationError
from shared_state.leadership import read_lead
from shared_state.state import EntityState
from shared_state.statistics import minutes_of
from shared_state.store import Store
from shared_state.topology import build_topology
from shared_state.versions import Told, Versions
from tests.redis.scheduler_ground import DOMAIN, MODEL, Node, make_config, make_topology, put_minute
from tests.support.processes import wait_until

CLOSED_MINUTE = int(time.time()) // 60 - 10


class Process:
    """A scheduler's process without its signals."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self.home = home
        self.versions = Versions(store, node="n1")
        self.stopping = asyncio.Event()
        document = self.document()
        own = Written(document, "mesh.yaml")
        self.shifts = Shifts(
            store,
            Blueprints(own, environ={"HAVE": "x"}),
            build_topology(read_config(document)),
            owner="only",
            admin_token=None,
        )
        self.task: asyncio.Task[None] | None = None

    def document(self, **sections: Any) -> dict[str, Any]:
        config = {**make_config(), "storage": {"path": str(self.home / "statistics.db")}, **sections}
        return {**config, "scheduler": {"lease": 1.0, "flush_interval": 0.2, "copy_interval": 0}}

    def start(self) -> None:
        self.task = asyncio.create_task(self.shifts.run(self.stopping))

    async def push(self, document: dict[str, Any]) -> int:
        base = (await self.versions.pulse()).current
        number = await self.versions.propose(document, Told(), base=base)
        await self.versions.decide(number, is_good=True)
        return number

    async def leads_with(self, number: int) -> dict[str, str] | None:
        lead = await read_lead(self.store)
        return lead if lead.get("owner") and lead.get("config") == str(number) else None

    async def model(self) -> EntityState:
        return (await read_domain(self.store, make_topology().domains[DOMAIN]))[1].models[MODEL]

    async def stop(self) -> None:
        self.stopping.set()
        if self.task is not None:
            await asyncio.wait([self.task])


@pytest.fixture
async def process(open_store: Callable[..., Store], tmp_path: Path) -> AsyncIterator[Process]:
    process = Process(open_store(), tmp_path)
    yield process
    await process.stop()


def other() -> dict[str, Any]:
    """Providers and models of a configuration that has nothing of the first."""
    return {
        "providers": {"else": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
        "models": {"else.m": {"provider": "else", "capabilities": ["chat-completion"]}},
        "pools": {},
    }


async def test_each_version_has_its_shift(process: Process):
    """The lead says what its holder runs; the storage of a version is used."""
    process.start()
    first = await wait_until(lambda: process.leads_with(0))
    await process.push(process.document(storage={"path": str(process.home / "second.db")}))
    second = await wait_until(lambda: process.leads_with(1), 15)
    await process.stop()

    assert first["owner"] != second["owner"]
    assert (process.home / "second.db").exists()
    assert process.task is not None
    assert process.task.exception() is None


async def test_what_is_left_of_a_domain_that_is_gone_is_stored(process: Process):
    """Its last statistics are flushed by the shift of a configuration that does not know it, and by one that begins afterwards."""
    process.start()
    await wait_until(lambda: process.leads_with(0))
    await process.push(process.document())
    await wait_until(lambda: process.leads_with(1), 15)
    await process.push(process.document(**other()))
    await wait_until(lambda: process.leads_with(2), 15)
    await put_minute(process.store, CLOSED_MINUTE, attempts=3)

    async def is_flushed() -> bool:
        return not await minutes_of(process.store, DOMAIN)

    await wait_until(is_flushed)
    await process.stop()
    await put_minute(process.store, CLOSED_MINUTE + 1, attempts=4)
    late = Process(process.store, process.home)
    late.start()
    await wait_until(is_flushed)
    await late.stop()
    sink = SqliteSink(process.home / "statistics.db")
    await sink.open()
    totals = await sink.totals(0, 1e12)
    await sink.aclose()

    assert sum(row.metrics["attempts"] for row in totals) == 7


async def test_a_raised_budget_is_felt_with_the_shift_of_its_version(process: Process):
    """The model rests, for its money is spent; the next version has more."""
    document = process.document()
    document["models"][MODEL] |= {"pricing": {"input": 1}, "limits": {"usd_per_day": 1e-6}}
    await process.push(document)
    process.start()
    node = Node(process.store, build_topology(read_config(document)), "n")
    await node.settle(await node.admit())
    await wait_until(lambda: process.leads_with(1))
    before = await process.model()
    document["models"][MODEL]["limits"] = {"usd_per_day": 1.0}
    await process.push(document)

    async def is_back() -> bool:
        return (await process.model()).status == "active"

    await wait_until(is_back, 15)

    assert (before.status, before.reason) == ("standby", "budget_exceeded")
    assert (await process.model()).trigger == "limit_raised"


async def test_a_version_that_cannot_be_run_is_told(process: Process):
    """The shift goes on; with the next version the fault is gone."""
    process.start()
    await wait_until(lambda: process.leads_with(0))
    needy = other()
    needy["providers"]["else"]["api_key"] = "${secrets:LACK}"
    await process.push(process.document(**needy))

    async def complains() -> dict[str, str] | None:
        lead = await read_lead(process.store)
        return lead if lead.get("fault") else None

    refused = await wait_until(complains)
    await process.push(process.document())
    mended = await wait_until(lambda: process.leads_with(2), 15)

    assert refused["config"] == "0"
    assert "the secret LACK is missing" in refused["fault"]
    assert mended["fault"] == ""


async def test_a_scheduler_does_not_start_on_other_rules_than_the_clusters(process: Process):
    """If it cannot run what is in force."""
    needy = other()
    needy["providers"]["else"]["api_key"] = "${secrets:LACK}"
    await process.push(process.document(**needy))

    with pytest.raises(ConfigurationError, match="the secret LACK is missing"):
        await process.shifts.run(process.stopping)
