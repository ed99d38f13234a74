"""The scheduler follows the versions of the configuration, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.chronicles import Chronicles
from scheduler.shifts import Shifts
from scheduler.sinks import SinkAwayError, SqliteSink, StoredCopy, make_sink
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written, read_config
from shared_state.config.storage import StorageConfig
from shared_state.domains import read_domain
from shared_state.errors import ConfigurationError
from shared_state.leadership import Word, read_lead, read_word
from shared_state.state import EntityState
from shared_state.statistics import minutes_of
from shared_state.store import Store
from shared_state.topology import build_topology
from shared_state.versions import Told, Versions
from tests.redis.scheduler_ground import (
    DOMAIN,
    MODEL,
    FlakySink,
    Node,
    make_config,
    make_topology,
    put_minute,
)
from tests.support.processes import wait_until

CLOSED_MINUTE = int(time.time()) // 60 - 10


class Process:
    """A scheduler's process without its signals."""

    def __init__(
        self, store: Store, home: Path, *, copy_interval: float = 0, storage: dict[str, Any] | None = None
    ) -> None:
        self.store = store
        self.home = home
        self.storage = storage or {"path": str(home / "statistics.db")}
        self.copy_interval = copy_interval
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
        config = {**make_config(), "storage": self.storage, **sections}
        timing = {"lease": 1.0, "flush_interval": 0.2, "copy_interval": self.copy_interval}
        return {**config, "scheduler": timing}

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

    async def word_on(self, document: dict[str, Any]) -> str:
        """What it thinks of a proposal, which is withdrawn then."""
        number = await self.versions.propose(document, Told(), base=0)

        async def said() -> Word | None:
            word = await read_word(self.store)
            return word if word and word.number == number else None

        word = await wait_until(said)
        await self.versions.decide(number, is_good=False)
        return word.fault

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
    second = await wait_until(lambda: process.leads_with(1))
    await process.stop()

    assert first["owner"] != second["owner"]
    assert (process.home / "second.db").exists()
    assert process.task is not None
    assert process.task.exception() is None


async def test_a_storage_that_is_away_delays_statistics_and_nothing_else(
    process: Process, monkeypatch: pytest.MonkeyPatch
):
    """The scheduler leads and follows versions without it, and stores all once it is back."""
    sinks = []

    class Away(FlakySink):
        async def open(self) -> None:
            await super().open()
            raise SinkAwayError("nobody answers")

    def make(config: StorageConfig) -> Away:
        sinks.append(Away(make_sink(config)))
        sinks[-1].fails_before = True
        return sinks[-1]

    monkeypatch.setattr("scheduler.shifts.make_sink", make)
    scheduler = Process(process.store, process.home, copy_interval=0.1)
    scheduler.start()
    await wait_until(lambda: scheduler.leads_with(0))
    await put_minute(process.store, CLOSED_MINUTE, attempts=3)
    await scheduler.push(scheduler.document())
    await wait_until(lambda: scheduler.leads_with(1))
    assert await minutes_of(process.store, DOMAIN) == [CLOSED_MINUTE]
    for sink in sinks:
        sink.fails_before = False

    async def is_flushed() -> bool:
        return not await minutes_of(process.store, DOMAIN)

    await wait_until(is_flushed)
    (total,) = await sinks[-1].totals(0, 1e12)
    await scheduler.stop()

    assert total.metrics["attempts"] == 3


@pytest.mark.parametrize(("pause_s", "looks"), [(60.0, 1), (0.0, 3)])
async def test_who_follows_versions_does_not_wait_for_a_dead_storage_each_time(
    process: Process, monkeypatch: pytest.MonkeyPatch, pause_s: float, looks: int
):
    """A call that nobody answers takes its time, and a push waits for the scheduler's word."""
    monkeypatch.setattr("scheduler.chronicles._PAUSE_S", pause_s)
    asked = []

    class Silent(FlakySink):
        async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
            asked.append(domain)
            raise SinkAwayError("no answer")

    chronicles = Chronicles(process.store, process.versions, Silent(SqliteSink(process.home / "s.db")))
    for _ in range(3):
        await chronicles.look()

    assert len(asked) == looks


async def test_what_is_left_of_a_domain_that_is_gone_is_stored(process: Process):
    """Its last statistics are flushed by the shift of a configuration that does not know it, and by one that begins afterwards."""
    process.start()
    await wait_until(lambda: process.leads_with(0))
    await process.push(process.document())
    await wait_until(lambda: process.leads_with(1))
    await process.push(process.document(**other()))
    await wait_until(lambda: process.leads_with(2))
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

    await wait_until(is_back)

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
    mended = await wait_until(lambda: process.leads_with(2))

    assert refused["config"] == "0"
    assert "the secret LACK is missing" in refused["fault"]
    assert mended["fault"] == ""


async def test_the_scheduler_that_leads_judges_what_is_proposed(process: Process):
    """A secret that it lacks, a storage that it cannot open; what it could run; whatever it says, nothing changes yet."""
    process.start()
    await wait_until(lambda: process.leads_with(0))
    (process.home / "file").touch()
    needy = other()
    needy["providers"]["else"]["api_key"] = "${secrets:LACK}"
    lost = process.document(storage={"path": str(process.home / "file" / "statistics.db")})
    words = [await process.word_on(document) for document in (needy, lost, process.document())]

    assert "the secret LACK is missing" in words[0]
    assert "storage: the statistics file" in words[1]
    assert words[2] == ""
    assert await process.leads_with(0)


async def test_a_store_that_comes_back_empty_gets_its_versions_back(process: Process):
    """Nobody runs them any more: the next scheduler finds them where its own file says, though they said to store elsewhere, and runs them."""
    first = Process(process.store, process.home, copy_interval=10.0)
    first.start()
    await wait_until(lambda: first.leads_with(0))
    await first.push(first.document())
    await first.push(first.document(storage={"path": str(process.home / "second.db")}))
    await wait_until(lambda: first.leads_with(2))
    await first.stop()
    before = [await first.versions.read(number) for number in (1, 2)]
    await process.store.client.flushdb()
    second = Process(process.store, process.home, copy_interval=10.0)
    second.start()
    await wait_until(lambda: second.leads_with(2))
    await second.stop()

    assert [await second.versions.read(number) for number in (1, 2)] == before
    assert [version.number for version in await second.versions.history()] == [2, 1]


async def test_history_that_only_the_storage_knows_is_filled_in(process: Process):
    """A node has put back what it runs, and nothing older."""
    scheduler = Process(process.store, process.home, copy_interval=10.0)
    scheduler.start()
    for number in (1, 2):
        await scheduler.push(scheduler.document())
        await wait_until(lambda number=number: scheduler.leads_with(number))
    runs = await scheduler.versions.read(2)
    await process.store.client.delete(process.store.keys.versions, process.store.keys.versions + ":documents")
    await scheduler.versions.put_back(runs)

    async def numbers() -> bool:
        return [version.number for version in await scheduler.versions.history()] == [2, 1]

    await wait_until(numbers)
    await scheduler.stop()


async def test_who_wants_no_copies_gets_none_of_versions_either(process: Process):
    """``copy_interval: 0``: an emptied Redis stays empty."""
    process.start()
    await process.push(process.document())
    await wait_until(lambda: process.leads_with(1))
    await process.stop()
    sink = SqliteSink(process.home / "statistics.db")
    await sink.open()
    stored = await sink.latest_copy(process.store.keys.versions)
    await sink.aclose()

    assert stored is None


async def test_a_scheduler_does_not_start_on_other_rules_than_the_clusters(process: Process):
    """If it cannot run what is in force."""
    needy = other()
    needy["providers"]["else"]["api_key"] = "${secrets:LACK}"
    await process.push(process.document(**needy))

    with pytest.raises(ConfigurationError, match="the secret LACK is missing"):
        await process.shifts.run(process.stopping)
