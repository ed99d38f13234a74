"""The configuration over the operators' API, on a real server: asked first, then in force, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from node.api.application import build_application
from node.api.auth import Doorkeeper
from node.following import Follower
from node.ops import configuration
from node.ops.configuration import ConfigDesk
from node.ops.routes import ops_routes
from shared_state.blueprints import Blueprints
from shared_state.bus import Bus
from shared_state.config.loader import Written
from shared_state.leadership import Verdict, Word, hold_lead, read_word, release_lead, tell_version
from shared_state.registry import NodeInfo, Registry
from shared_state.store import Store
from shared_state.topology import Topology
from shared_state.versions import Version, Versions
from tests.redis.office import Office, mesh, open_office
from tests.support.processes import wait_until
from tests.unit.node.house import Watch

FILE: dict[str, Any] = {
    "providers": {"a": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
    "models": {name: {"provider": "a", "capabilities": ["chat-completion"]} for name in ("a.small", "a.big")},
    "redis": {"url": "redis://:hunter2@somewhere"},
}
SHARED = {name: FILE[name] for name in ("providers", "models")}


def changed(**provider: Any) -> dict[str, Any]:
    return {**SHARED, "providers": {"a": {**FILE["providers"]["a"], **provider}}}


class Node:
    """A node as far as versions go: it follows, and the registry hears of it at once."""

    def __init__(self, name: str, store: Store, environ: dict[str, str]) -> None:
        self.info = NodeInfo(name, "h", 1, 1, 0.0, "alive", "1", "c", "exact", 0)
        self.registry = Registry(store)
        self.blueprints = Blueprints(Written(FILE, "mesh.yaml"), environ=environ)
        self._bus = Bus(store, on_event=lambda event: self.follower.observe_event(event), on_gap=self.hear)
        self.hears = asyncio.Event()
        self._beats: set[asyncio.Task[object]] = set()
        self.follower = Follower(
            Versions(store, node=name),
            self.blueprints,
            Watch(),  # type: ignore[arg-type]
            adopt=self._adopt,
            info=self.info,
            tell=self._tell,
        )

    def hear(self) -> None:
        self.hears.set()

    async def _adopt(self, version: Version, topology: Topology) -> None:
        self.info.config_number, self.info.config_version = version.number, topology.version

    def _tell(self) -> None:
        beat = asyncio.ensure_future(self.registry.beat(self.info))
        self._beats.add(beat)
        beat.add_done_callback(self._beats.discard)

    async def run(self) -> None:
        await self.registry.beat(self.info)
        await asyncio.gather(self._bus.run(), self.follower.run())


class Cluster:
    """An office whose node has a desk, and other nodes."""

    def __init__(self, office: Office, open_store: Callable[..., Store], stack: AsyncExitStack) -> None:
        self.office = office
        self._open_store = open_store
        self._stack = stack
        self.first = first = Node("n1", open_store(), {"KEY": "value"})
        self.versions = Versions(open_store(), node="n1")
        desk = ConfigDesk(
            self.versions,
            first.registry,
            first.blueprints,
            first.follower,
            store=office.store,
            node="n1",
        )
        office.parts = replace(office.parts, desk=desk)
        doorkeeper = Doorkeeper([SecretStr("admin")], is_open=False)
        office.app = build_application({}, routes=ops_routes(office.parts, doorkeeper))
        self.start(first)

    def start(self, node: Node) -> None:
        task = asyncio.create_task(node.run())

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)

    async def add(self, name: str, environ: dict[str, str]) -> Node:
        node = Node(name, self._open_store(), environ)
        self.start(node)
        await node.follower.looked.wait()
        await node.hears.wait()
        return node

    async def push(self, document: dict[str, Any], path: str = "config", **said: Any) -> tuple[int, Any]:
        body = said if path != "config" else {"document": document, **said}
        heard = await self.office.ask(path, method="POST", body=orjson.dumps(body))
        return heard.status, heard.json

    async def history(self) -> list[tuple[int, str]]:
        view = await self.office.view("config/history")
        return [(version["number"], version["comment"]) for version in view["versions"]]


@pytest.fixture
async def cluster(open_store: Callable[..., Store]) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(
            open_office(open_store(), mesh({"a.small": {}, "a.big": {}}))
        )
        cluster = Cluster(office, open_store, stack)
        await cluster.first.hears.wait()
        yield cluster


async def test_a_push_is_in_force_and_remembered(cluster: Cluster):
    """With what ran before as the first; what is a process's own is left out, and told."""
    status, said = await cluster.push(changed(region="eu") | {"redis": {"url": "x"}}, comment="to europe")
    view = await cluster.office.view("config")
    stored = (await cluster.office.ask("config/1")).json

    assert (status, said["number"], said["is_new"], said["left_out"]) == (200, 2, True, ["redis"])
    assert (view["number"], view["told"]["comment"]) == (2, "to europe")
    assert view["document"] == changed(region="eu")
    assert stored["document"] == SHARED
    assert "hunter2" not in str(stored)
    assert await cluster.history() == [(2, "to europe"), (1, "what ran before the first push")]


async def test_without_a_version_the_nodes_own_file_is_shown(cluster: Cluster):
    """Its number is 0, and nobody has pushed anything."""
    view = await cluster.office.view("config")

    assert (view["number"], view["told"], view["document"]) == (0, None, SHARED)
    assert await cluster.history() == []


@pytest.mark.parametrize(
    ("document", "code", "fault"),
    [
        (changed(api_key="hunter2"), "configuration_error", "providers.a.api_key: holds a value"),
        (changed(regoin="eu"), "configuration_error", "providers.a.regoin"),
        (changed(api_key="${secrets:LACK}"), "configuration_error", "the secret LACK is missing"),
    ],
)
async def test_what_is_wrong_is_told_and_not_kept(
    cluster: Cluster, document: dict[str, Any], code: str, fault: str
):
    """Also a secret that is written out, which nobody repeats."""
    status, said = await cluster.push(document)

    assert (status, said["error"]["code"]) == (400, code)
    assert fault in said["error"]["message"]
    assert "hunter2" not in str(said)
    assert await cluster.history() == []


async def test_one_node_that_cannot_run_it_is_enough(cluster: Cluster):
    """Who, and why; nothing is changed anywhere. With what it lacks the same push goes through."""
    await cluster.add("n2", {"KEY": "value"})
    poor = await cluster.add("n3", {})
    status, said = await cluster.push(changed(api_key="${secrets:KEY}"))
    numbers = [node.info.config_number for node in (poor,)]
    poor.blueprints._environ = {"KEY": "value"}
    again, _ = await cluster.push(changed(api_key="${secrets:KEY}"))

    assert (status, said["error"]["code"]) == (409, "version_refused")
    assert "n3: version 2: 1 fault" in said["error"]["message"]
    assert "the secret KEY is missing" in said["error"]["message"]
    assert numbers == [0]
    assert again == 200
    assert [number for number, _ in await cluster.history()] == [3, 1]


async def test_a_node_that_says_nothing_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """One of an older release knows nothing of versions; one that is dead or draining is not asked."""
    monkeypatch.setattr(configuration, "_VERDICTS_S", 1.5)
    registry = Registry(cluster.office.store)
    info = NodeInfo("old", "h", 1, 1, 0.0, "alive", "0.0", "c", "exact", 0)
    await registry.beat(info)
    status, said = await cluster.push(changed(region="eu"))
    await registry.beat(replace(info, state="draining"))
    again, _ = await cluster.push(changed(region="eu"))

    assert (status, again) == (409, 200)
    assert "old: does not say whether it can run it" in said["error"]["message"]


async def test_a_scheduler_that_cannot_run_it_is_enough(cluster: Cluster):
    """Whoever leads has a say, as long as it leads; without one the push goes on."""
    store = cluster.office.store
    await hold_lead(store, "clock", lease_s=60.0)
    await tell_version(store, 0, "", Verdict(2, "storage: no such disk"))
    status, said = await cluster.push(changed(region="eu"))
    await release_lead(store, "clock")
    await hold_lead(store, "dead", lease_s=0.001)
    await tell_version(store, 0, "", Verdict(3, "storage: no such disk"))
    again, _ = await cluster.push(changed(region="eu"))

    assert (status, said["error"]["code"]) == (409, "version_refused")
    assert "scheduler clock: storage: no such disk" in said["error"]["message"]
    assert again == 200
    assert [number for number, _ in await cluster.history()] == [3, 1]


async def test_a_push_waits_for_the_scheduler_that_leads(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """It has not looked yet when all nodes have said that they can."""
    store, looks = cluster.office.store, asyncio.Semaphore(0)

    async def read(store: Store) -> Word | None:
        looks.release()
        return await read_word(store)

    monkeypatch.setattr(configuration, "read_word", read)
    await hold_lead(store, "clock", lease_s=60.0)
    await tell_version(store, 0, "", Verdict())
    pushing = asyncio.create_task(cluster.push(changed(region="eu")))

    async def is_judged() -> bool:
        return cluster.first.info.config_judged == 2

    await wait_until(is_judged)
    looks._value = 0
    for _ in range(3):  # the desk has seen that all nodes can
        await asyncio.wait_for(looks.acquire(), 20)
    assert (await cluster.versions.pulse()).proposed == 2
    await tell_version(store, 0, "", Verdict(2, "the secret KEY is missing"))
    status, said = await pushing

    assert status == 409
    assert "scheduler clock: the secret KEY is missing" in said["error"]["message"]


async def test_a_scheduler_that_says_nothing_holds_nobody_up_for_good(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """It was killed, and its lease has not run out; or it is of a release that does not judge: then nobody waits at all."""
    store = cluster.office.store
    await hold_lead(store, "clock", lease_s=60.0)
    first, _ = await cluster.push(changed(region="eu"))
    monkeypatch.setattr(configuration, "_VERDICTS_S", 0.5)
    await tell_version(store, 0, "", Verdict())
    second, _ = await cluster.push(changed(region="us"))

    assert (first, second) == (200, 200)


async def test_a_change_of_something_else_is_refused(cluster: Cluster):
    """The version that it was made on is not in force any more."""
    await cluster.push(changed(region="eu"))
    status, said = await cluster.push(changed(region="us"), base=1)

    assert (status, said["error"]["code"]) == (409, "version_conflict")
    assert (await cluster.office.view("config"))["document"] == changed(region="eu")


async def test_the_same_again_is_no_version(cluster: Cluster):
    """Unless it is wanted, for the secrets' sake; another order is another configuration."""
    _, first = await cluster.push(changed(region="eu"))
    _, same = await cluster.push(changed(region="eu"))
    _, forced = await cluster.push(changed(region="eu"), force=True)
    turned = dict(reversed(SHARED["models"].items()))
    _, other = await cluster.push({**changed(region="eu"), "models": turned})

    assert [(said["number"], said["is_new"]) for said in (first, same, forced, other)] == [
        (2, True),
        (2, False),
        (3, True),
        (4, True),
    ]


async def test_a_rollback_is_a_new_version(cluster: Cluster):
    """With the old document; what is not remembered cannot come back."""
    await cluster.push(changed(region="eu"))
    status, said = await cluster.push({}, "config/rollback", number=1)
    lost, why = await cluster.push({}, "config/rollback", number=9)

    assert (status, said["number"]) == (200, 3)
    assert (await cluster.office.view("config"))["document"] == SHARED
    assert (await cluster.history())[0] == (3, "rollback to version 1")
    assert (lost, why["error"]["code"]) == (404, "version_not_found")


async def test_who_runs_what_is_told(cluster: Cluster):
    """Each live node's number, and the fault of one that goes on with what it has."""
    node = await cluster.add("n2", {"KEY": "value"})
    _, said = await cluster.push(changed(region="eu"))
    for _ in range(100):
        view = await cluster.office.view("config")
        if all(row["number"] == said["number"] for row in view["nodes"]):
            break
        await asyncio.sleep(0.02)
    node.info.config_fault = "lacks something"
    await node.registry.beat(node.info)
    view = await cluster.office.view("config")

    assert {(row["id"], row["number"], row["fault"]) for row in view["nodes"]} == {
        ("n1", 2, ""),
        ("n2", 2, "lacks something"),
    }
