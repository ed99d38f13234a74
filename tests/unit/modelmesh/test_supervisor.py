"""The supervisor: order of start and end, and what signals mean."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from modelmesh.children import Child
from modelmesh.errors import StartError
from modelmesh.supervisor import Supervisor
from tests.support.processes import wait_until
from tests.unit.modelmesh.programs import OBEDIENT, Record, is_alive, python

# os.write, because a signal may interrupt a print, which then refuses another one inside the handler
DRAINING = """
import os, signal, sys, time
def drain(*_):
    os.write(1, b"draining\\n"); time.sleep(0.2); os.write(1, b"drained\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, drain); os.write(1, b"up\\n")
while True: signal.pause()
"""
BUSY = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"draining\\n")); os.write(1, b"up\\n")
while True: signal.pause()
"""


class FakeService:
    """Notes what it is told; can refuse to become ready, or to stop."""

    def __init__(
        self, name: str, log: list[str], *, fault: Exception | None = None, never_stops: bool = False
    ) -> None:
        self.name = name
        self._log, self._fault, self._never_stops = log, fault, never_stops

    async def start(self) -> None:
        self._log.append(f"start {self.name}")

    async def wait_ready(self) -> None:
        await asyncio.sleep(0)
        if self._fault:
            raise self._fault
        self._log.append(f"ready {self.name}")

    async def stop(self) -> None:
        self._log.append(f"stop {self.name}")
        if self._never_stops:
            await asyncio.Event().wait()

    async def end_now(self) -> None:
        self._log.append(f"end {self.name}")


def signal_self() -> None:
    """As if an operator had ended us."""
    os.kill(os.getpid(), signal.SIGTERM)


async def test_groups_start_in_order_and_end_in_the_opposite_order():
    """What others stand on comes first and goes last."""
    log: list[str] = []
    supervisor = Supervisor([lambda: [FakeService("store", log)], lambda: [FakeService("node", log)]])

    await supervisor.run(when_ready=signal_self)

    assert log == ["start store", "ready store", "start node", "ready node", "stop node", "stop store"]


async def test_a_group_is_made_when_its_turn_comes():
    """A later group may use what an earlier one has found out."""
    log: list[str] = []

    def second() -> list[FakeService]:
        assert "ready store" in log
        return []

    await Supervisor([lambda: [FakeService("store", log)], second]).run(when_ready=signal_self)


async def test_a_failed_start_ends_what_runs_and_says_why():
    """Nothing is left behind when one service cannot be started."""
    log: list[str] = []
    broken = FakeService("node", log, fault=StartError("no luck"))
    supervisor = Supervisor([lambda: [FakeService("store", log)], lambda: [broken]])

    with pytest.raises(StartError, match="no luck"):
        await supervisor.run(when_ready=lambda: log.append("never"))

    assert log[-2:] == ["stop node", "stop store"]
    assert "never" not in log


async def test_a_signal_during_the_start_ends_it():
    """An impatient operator need not wait for the banner."""
    log: list[str] = []

    class Slow(FakeService):
        async def wait_ready(self) -> None:
            signal_self()
            await asyncio.Event().wait()

    async with asyncio.timeout(30):
        await Supervisor([lambda: [Slow("store", log)]]).run(when_ready=lambda: log.append("never"))

    assert log == ["start store", "stop store"]


async def test_a_second_signal_ends_at_once():
    """The second signal does not wait for any drain."""
    log: list[str] = []
    node = FakeService("node", log, never_stops=True)
    running = asyncio.create_task(
        Supervisor([lambda: [FakeService("store", log)], lambda: [node]]).run(when_ready=signal_self)
    )
    await wait_until(lambda: "stop node" in log)
    signal_self()

    async with asyncio.timeout(30):
        await running

    assert log[-3:] == ["stop node", "end node", "end store"]


async def test_nodes_drain_before_the_scheduler_ends():
    """Real children: the scheduler lives until the last node has drained."""
    record = Record()
    groups = [
        lambda: [Child(python(DRAINING, name="scheduler"), tell=record)],
        lambda: [Child(python(DRAINING, name=f"node-{number}"), tell=record) for number in (1, 2)],
    ]
    running = asyncio.create_task(Supervisor(groups).run(when_ready=lambda: None))
    await wait_until(lambda: record.count("up") == 3)
    signal_self()
    await running

    last_drained = max(record.lines.index((f"node-{number}", "drained")) for number in (1, 2))
    assert last_drained < record.lines.index(("scheduler", "draining"))
    assert record.lines[-1] == ("scheduler", "drained")


async def test_a_second_signal_kills_a_busy_child():
    """Real children: a drain that takes for ever is cut off."""
    record = Record()
    children = [Child(python(BUSY, grace_s=60), tell=record), Child(python(OBEDIENT), tell=record)]
    running = asyncio.create_task(Supervisor([lambda: children]).run(when_ready=lambda: None))
    await wait_until(lambda: record.count("up") == 2)
    busy_pid = children[0].pid
    signal_self()
    await wait_until(lambda: "draining" in record)
    signal_self()

    async with asyncio.timeout(30):
        await running

    assert not is_alive(busy_pid)
