"""A node's follower on a real server: judges, moves, refuses, puts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from node.following import Follower
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written
from shared_state.errors import ConfigurationError
from shared_state.events import Event
from shared_state.registry import NodeInfo
from shared_state.store import Store
from shared_state.topology import Topology
from shared_state.versions import Pulse, Told, Version, Versions
from tests.support.processes import wait_until
from tests.unit.node.house import Watch

FILE: dict[str, Any] = {
    "providers": {"a": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
    "models": {"a.m": {"provider": "a", "capabilities": ["chat-completion"]}},
    "server": {"drain": "3s"},
}
ENVIRON = {"HAVE": "value"}


def with_key(name: str) -> dict[str, Any]:
    """A version that needs a secret."""
    provider = {**FILE["providers"]["a"], "api_key": f"${{secrets:{name}}}"}
    return {"providers": {"a": provider}, "models": FILE["models"]}


class Seat:
    """A follower and what it has its node do."""

    def __init__(self, versions: Versions, store: Store) -> None:
        self.watch = Watch()
        self.info = NodeInfo("n1", "h", 1, 1, 0.0, "alive", "1", "c", "exact", 0)
        self.adopted: list[tuple[Version, Topology]] = []
        self.fails = False
        self.told = 0
        self.versions = versions
        self.follower = Follower(
            Versions(store, node="n1"),
            Blueprints(Written(FILE, "mesh.yaml"), environ=ENVIRON),
            self.watch,  # type: ignore[arg-type]
            adopt=self.adopt,
            info=self.info,
            tell=self.tell,
        )

    def tell(self) -> None:
        self.told += 1

    async def adopt(self, version: Version, topology: Topology) -> None:
        if self.fails:
            raise RuntimeError("hunter2")
        self.adopted.append((version, topology))

    async def propose(self, document: dict[str, Any]) -> int:
        base = (await self.versions.pulse()).current
        return await self.versions.propose(document, Told(), base=base)

    async def push(self, document: dict[str, Any]) -> int:
        number = await self.propose(document)
        await self.versions.decide(number, is_good=True)
        return number


@pytest.fixture
async def seat(open_store: Callable[..., Store]) -> AsyncIterator[Seat]:
    """Not running yet."""
    yield Seat(Versions(open_store(), node="other"), open_store())


@pytest.fixture
async def running(seat: Seat) -> AsyncIterator[Seat]:
    """At work, on its own file."""
    task = asyncio.create_task(seat.follower.run())
    await seat.follower.looked.wait()
    yield seat
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def hint(seat: Seat) -> None:
    seat.follower.observe_event(Event("config_changed", 0, 0, "cluster", "config", "1", "", 0, "n2"))


async def test_a_proposal_is_judged_and_not_run(running: Seat):
    """The registry hears of it at once."""
    number = await running.propose(with_key("HAVE"))
    hint(running)
    await wait_until(lambda: running.info.config_judged == number)

    assert running.info.config_fault == ""
    assert running.told > 0
    assert running.adopted == []


async def test_what_a_node_lacks_is_said_and_no_secret(running: Seat):
    """A missing secret, by its name; when the proposal is withdrawn nothing is left of it."""
    number = await running.propose(with_key("LACK"))
    hint(running)
    await wait_until(lambda: running.info.config_judged == number)
    fault = running.info.config_fault
    await running.versions.decide(number, is_good=False)
    hint(running)
    await wait_until(lambda: not running.info.config_fault)

    assert "the secret LACK is missing" in fault
    assert running.follower.running is None


async def test_what_is_in_force_is_run_with_the_nodes_own_parts(running: Seat):
    """Without a hint, too: it looks once a second."""
    number = await running.push(with_key("HAVE"))
    await wait_until(lambda: running.adopted)
    ((version, topology),) = running.adopted

    assert version.number == number
    assert topology.providers["a"].api_key is not None
    assert topology.config.server.drain == 3


async def test_a_running_node_goes_on_with_what_it_has(running: Seat):
    """If it cannot run what is in force; a later version that it can run is run."""
    await running.push(with_key("LACK"))
    hint(running)
    await wait_until(lambda: running.info.config_fault)
    before = list(running.adopted)
    number = await running.push(with_key("HAVE"))
    hint(running)
    await wait_until(lambda: running.adopted)

    assert before == []
    assert running.adopted[0][0].number == number
    await wait_until(lambda: not running.info.config_fault)


async def test_a_node_does_not_start_on_other_rules_than_the_clusters(seat: Seat):
    """If it cannot run what is in force it ends, as with a wrong file."""
    await seat.push(with_key("LACK"))

    with pytest.raises(ConfigurationError, match="the secret LACK is missing"):
        await asyncio.wait_for(seat.follower.run(), 20)
    assert not seat.follower.looked.is_set()


async def test_a_version_that_breaks_the_swap_does_not_end_the_node(running: Seat):
    """Every node would end at once. What was raised is not told: it may hold anything."""
    running.fails = True
    await running.push(with_key("HAVE"))
    hint(running)
    await wait_until(lambda: running.info.config_fault)

    assert "RuntimeError" in running.info.config_fault
    assert "hunter2" not in running.info.config_fault


async def test_what_the_store_forgot_is_put_back(running: Seat, open_store: Callable[..., Store]):
    """A node that starts afterwards finds it there."""
    number = await running.push(with_key("HAVE"))
    await wait_until(lambda: running.follower.running)
    await open_store().client.flushdb()
    hint(running)

    async def put_back() -> bool:
        return await running.versions.pulse() == Pulse(number, 0)

    await wait_until(put_back)
    assert (await running.versions.read(number)).document == with_key("HAVE")


async def test_what_runs_is_renewed_and_nothing_else(running: Seat):
    """The same version with other secrets; if another one is run by then it is left alone, and a swap that breaks ends nothing."""
    own = running.follower._blueprints.build(FILE, source="mesh.yaml")
    at_first = await running.follower.renew(None, own)
    number = await running.push(with_key("HAVE"))
    await wait_until(lambda: running.follower.running)
    too_late = await running.follower.renew(None, own)
    version = running.follower.running
    again = await running.follower.renew(version, own)
    running.fails = True
    broken = await running.follower.renew(version, own)

    assert (at_first, too_late, again, broken) == (True, False, True, False)
    assert [version.number for version, _ in running.adopted] == [0, number, number]
