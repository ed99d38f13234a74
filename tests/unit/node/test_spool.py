"""Settlements on disk during an outage: what is written, by whom it is handed in, and what is passed over."""

from __future__ import annotations

import asyncio
import math
import stat
import time
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from node import spool as module
from node.batch import DomainBatcher
from node.spool import Spool
from shared_state.ledger import LEASED, Outcome, Settlement
from tests.unit.node.house import Watch
from tests.unit.node.test_batch import POOL, ScriptedLedger
from tests.unit.node.virtual_time import in_virtual_time, settle_down


class Outbox:
    """Notes what is handed in; it arrives when the test says."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        self.has_arrived = asyncio.Event()
        self.has_arrived.set()

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)

    async def flush(self) -> None:
        await self.has_arrived.wait()


class Machine:
    """A state folder, and nodes that use it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.outbox = Outbox()

    @property
    def files(self) -> list[Path]:
        return sorted(self.home.rglob("*.spool"))

    def spool(self, node: str = "n1", *, store: str = "redis://one", watch: Watch | None = None) -> Spool:
        return Spool(self.home, watch or Watch(), store=store, node=node)  # type: ignore[arg-type]

    async def restart(self, node: str = "n2", *, store: str = "redis://one") -> list[Settlement]:
        """A node that starts; what it hands in."""
        watch = Watch()
        task = asyncio.create_task(self.spool(node, store=store, watch=watch).run({"a.m": self.outbox}))
        for callback in watch.returns:
            callback()
        await settle_down()
        task.cancel()
        return self.outbox.settled

    def leave(self, *settlements: Settlement, node: str = "n1") -> None:
        """A node that dies with these in its outbox: its locks go with it."""
        shelf = self.spool(node).shelf("a")
        assert shelf is not None
        shelf.keep(settlements, 0)
        module.os.close(shelf._file)  # type: ignore[arg-type]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Whose disk is never waited for: a sync holds the lock as well, until it is through."""
    monkeypatch.setattr(module, "_SYNC_S", math.inf)
    return Machine(tmp_path / "home")


def settlement(name: str, outcome: Outcome = Outcome.SUCCESS, *, flags: int = 0) -> Settlement:
    return Settlement(
        name,
        "a.m",
        POOL,
        outcome,
        tokens_in=7,
        tokens_out=3,
        cost_nano=50,
        latency_ms=120,
        flags=flags,
        pool_id="chat",
        learned=[("rpm", 3, 1000)],
    )


@in_virtual_time
async def test_what_cannot_be_settled_is_kept_until_it_has_arrived(machine: Machine) -> None:
    """Once each; nothing is created while Redis answers, and nothing is left afterwards."""
    watch = Watch()
    batcher = DomainBatcher(
        ScriptedLedger(),  # type: ignore[arg-type]
        watch,  # type: ignore[arg-type]
        on_reply=lambda _: None,
        shelf=machine.spool().shelf("a"),
    )
    batcher.settle(settlement("r1"))
    await asyncio.sleep(1)
    assert not machine.home.exists()
    watch.connected = False
    for name in ("r2", "r3"):
        batcher.settle(settlement(name))
        await asyncio.sleep(1)
    (file,) = machine.files
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    watch.connected = True
    await asyncio.sleep(1)

    assert [line[1] for line in lines] == ["r2", "r3"]
    assert machine.files == []


@in_virtual_time
async def test_a_second_outage_keeps_only_what_is_left(machine: Machine) -> None:
    """What arrived in between is not written again."""
    watch, ledger = Watch(), ScriptedLedger()
    batcher = DomainBatcher(
        ledger,  # type: ignore[arg-type]
        watch,  # type: ignore[arg-type]
        on_reply=lambda _: None,
        shelf=machine.spool().shelf("a"),
    )
    for outage in range(2):
        watch.connected = False
        batcher.settle(settlement(f"r{outage}"))
        await asyncio.sleep(1)
        texts = [file.read_bytes() for file in machine.files]
        watch.connected = True
        await asyncio.sleep(1)

    assert [text.count(b"\n") for text in texts] == [1]
    assert b'"r1"' in texts[0]
    assert ledger.settlements == [["r0"], ["r1"]]


async def test_a_node_that_starts_hands_in_what_a_dead_one_has_left(machine: Machine) -> None:
    """With everything that the books need; the file goes once it has arrived."""
    machine.leave(settlement("r1"), settlement("r2"))
    machine.outbox.has_arrived.clear()
    found = await machine.restart()
    assert len(machine.files) == 1
    found.clear()
    machine.outbox.has_arrived.set()
    found = await machine.restart()

    assert [one.reservation for one in found] == ["r1", "r2"]
    assert (found[0].tokens_in, found[0].tokens_out, found[0].cost_nano) == (7, 3, 50)
    assert (found[0].model, found[0].pool_id, found[0].latency_ms) == ("a.m", "chat", 120)
    assert machine.files == []


async def test_a_living_nodes_file_is_left_alone(machine: Machine) -> None:
    """It holds a lock on it for as long as it lives."""
    shelf = machine.spool().shelf("a")
    assert shelf is not None
    shelf.keep([settlement("r1")], 0)

    assert await machine.restart() == []
    assert len(machine.files) == 1
    shelf.clear()


async def test_what_belongs_to_another_store_is_left_alone(machine: Machine) -> None:
    """Its books are elsewhere."""
    machine.leave(settlement("r1"))

    assert await machine.restart(store="redis://two") == []
    assert len(machine.files) == 1


async def test_old_news_judges_nobody(machine: Machine) -> None:
    """A failure is a failure in the statistics, and takes no model or account out any more."""
    machine.leave(*(settlement(outcome.name, outcome) for outcome in Outcome))
    found = {one.reservation: one for one in await machine.restart()}

    assert {found[name].outcome for name in ("CREDENTIALS", "QUOTA", "RATE_LIMITED", "UNREACHABLE")} == {
        Outcome.FAILURE
    }
    assert (found["SUCCESS"].outcome, found["NEUTRAL"].outcome) == (Outcome.SUCCESS, Outcome.NEUTRAL)
    assert found["FAILURE"].pool.deactivation.retry_limit > 1_000_000
    assert all(not one.learned for one in found.values())


async def test_a_line_that_was_cut_is_passed_over(machine: Machine) -> None:
    """The machine went down amid it; and one that is spoilt."""
    machine.leave(settlement("r1"), settlement("r2"), settlement("r3"))
    (file,) = machine.files
    first, _, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"\xff\xfe[1\n" + b"[]\n{}\n" + third + first[:40])
    with capture_logs():
        found = await machine.restart()

    assert [one.reservation for one in found] == ["r1", "r3"]


async def test_what_the_store_may_have_forgotten_is_not_booked_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt without a reservation is known for an hour; one with a reservation for ever."""
    machine.leave(settlement("leased", flags=LEASED), settlement("reserved"))
    an_hour_on = time.time() + 3600
    monkeypatch.setattr(module.time, "time", lambda: an_hour_on)

    assert [one.reservation for one in await machine.restart()] == ["reserved"]


async def test_a_model_that_is_gone_is_passed_over(machine: Machine) -> None:
    """With the rest of its file."""
    gone = settlement("r1")
    gone.model = "gone.m"
    machine.leave(gone, settlement("r2"))

    assert [one.reservation for one in await machine.restart()] == ["r2"]
    assert machine.files == []


@in_virtual_time
async def test_a_file_has_a_largest_size(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more is said once, and not written."""
    monkeypatch.setattr(module, "_MOST_BYTES", 500)
    shelf = machine.spool().shelf("a")
    assert shelf is not None
    outbox: list[Settlement] = []
    with capture_logs() as logs:
        for number in range(20):
            outbox.append(settlement(f"r{number}"))
            shelf.keep(outbox, 0)

    assert len(logs) == 1
    assert 0 < machine.files[0].stat().st_size <= 500
    shelf.clear()


@in_virtual_time
async def test_without_a_place_nothing_is_kept(tmp_path: Path) -> None:
    """A folder that cannot be made is said once; where there is none at all, nothing is."""
    blocked = tmp_path / "file"
    blocked.touch()
    shelf = Machine(blocked).spool().shelf("a")
    assert shelf is not None
    with capture_logs() as logs:
        shelf.keep([settlement("r1")], 0)
        shelf.keep([settlement("r1"), settlement("r2")], 0)

    assert len(logs) == 1
    assert Spool(None, Watch(), store="s", node="n").shelf("a") is None  # type: ignore[arg-type]


async def test_what_was_written_reaches_the_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second at most, and nobody waits for it."""
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(module, "_SYNC_S", 1.0)
    monkeypatch.setattr(module.os, "fsync", lambda _: loop.call_soon_threadsafe(synced.set))
    shelf = machine.spool().shelf("a")
    assert shelf is not None
    shelf.keep([settlement("r1")], 0)
    async with asyncio.timeout(30):
        await synced.wait()
    synced.clear()
    shelf.keep([settlement("r1"), settlement("r2")], 0)
    await asyncio.sleep(0.05)
    shelf.clear()

    assert not synced.is_set()


async def test_only_its_owner_may_read_it(machine: Machine) -> None:
    """And it holds no word of a configuration."""
    machine.leave(settlement("r1"))
    (file,) = machine.files

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(orjson.loads(file.read_bytes())) == 12
