"""A router inside a program, on a real server: calls, streams, limits shared with nodes, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import structlog

import modelmesh
from shared_state.config.environment import environment_document
from shared_state.config.loader import read_config
from shared_state.registry import Registry
from shared_state.versions import Told, Versions
from tests.support.processes import ChildProcess, wait_until
from tests.support.upstream import GatedUpstream

HI: list[Any] = [{"role": "user", "content": "hi"}]
_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, and no configuration but its."""
    for name in ("MODELMESH_CONFIG", "MODELMESH_REDIS_URL", "MODELMESH_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELMESH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
async def upstream() -> AsyncIterator[GatedUpstream]:
    async with GatedUpstream() as upstream:
        yield upstream


@pytest.fixture
def config(upstream: GatedUpstream, valkey_server: Any, namespace: str) -> dict[str, Any]:
    """One model behind the gated upstream."""
    return mesh_of(upstream.base_url, url=valkey_server.url, namespace=namespace)


def mesh_of(base_url: str, *, url: str, namespace: str, **more: Any) -> dict[str, Any]:
    return {
        "redis": {"url": url, "namespace": namespace, "timeout": "5s"},
        "providers": {"alpha": {"connector": "openai-compatible.v1", "base_url": base_url, **more}},
        "models": {"alpha.small": {"provider": "alpha", "capabilities": ["chat-completion"]}},
        "pools": {"chat": {"capability": "chat-completion"}},
    }


async def open_mesh(config: Any, **options: Any) -> modelmesh.ModelMesh:
    return await modelmesh.ModelMesh.initialize(config, **{"scheduler": False, **options})


# -- calls


async def test_chunks_arrive_one_by_one(config, upstream):
    """The official client has a chunk before the provider has sent the next."""
    async with await open_mesh(config) as mesh, mesh.client() as client:
        upstream.chunks.put_nowait("one")
        stream = await client.chat.completions.create(model="chat-completion", messages=HI, stream=True)
        chunks = aiter(stream)
        heard = [(await anext(chunks)).choices[0].delta.content]
        for text in ("two", "three"):
            upstream.chunks.put_nowait(text)
            heard.append((await anext(chunks)).choices[0].delta.content)
        upstream.chunks.put_nowait("")

        assert heard == ["one", "two", "three"]
        assert stream.response.headers["x-modelmesh-model"] == "alpha.small"


async def test_leaving_a_stream_reaches_the_provider(config, upstream):
    """Closed or cancelled, the call upstream ends too."""
    async with await open_mesh(config) as mesh, mesh.client() as client:
        upstream.chunks.put_nowait("one")
        async with await client.chat.completions.create(model="chat", messages=HI, stream=True) as stream:
            await anext(aiter(stream))
        await upstream.left.wait()
        upstream.left.clear()

        asking = asyncio.create_task(client.chat.completions.create(model="chat", messages=HI, stream=True))
        await wait_until(lambda: len(upstream.asked) == 2)
        asking.cancel()

        await upstream.left.wait()


async def test_headers_of_the_contract_are_the_sdks_extra_headers(config, upstream):
    """A repeat with the same Idempotency-Key gets the same answer, without the provider."""
    headers = {"Idempotency-Key": "k1", "x-modelmesh-deadline": "20s", "x-modelmesh-session": "s"}
    async with await open_mesh(config) as mesh, mesh.client(max_retries=0) as client:
        for _ in range(2):
            answer = await client.chat.completions.create(model="chat", messages=HI, extra_headers=headers)
            assert answer.choices[0].message.content == "whole"

        assert len(upstream.asked) == 1
        with pytest.raises(openai.BadRequestError, match="x-modelmesh-deadline"):
            await client.chat.completions.create(
                model="chat", messages=HI, extra_headers={"x-modelmesh-deadline": "soon"}
            )


async def test_errors_are_those_of_the_sdk(config):
    """An unknown name is its 404."""
    async with await open_mesh(config) as mesh, mesh.client(max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="chat-completion"):
            await client.chat.completions.create(model="chat-complet", messages=HI)


async def test_the_door_is_the_configurations(config):
    """Tokens of the configuration open it by themselves; where client keys are required, one has to be given."""
    config["proxy"] = {"auth": {"tokens": ["a-token"]}}
    async with await open_mesh(config) as mesh, mesh.client(max_retries=0) as client:
        assert await client.chat.completions.create(model="chat", messages=HI)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").chat.completions.create(model="chat", messages=HI)

    config |= {"proxy": {}, "keys": {"required": True}}
    async with await open_mesh(config) as mesh, mesh.client(max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="chat", messages=HI)
        with mesh._ops() as ops:
            key = await asyncio.to_thread(ops.create_key, {"name": "program"})
        assert await client.with_options(api_key=key.key).chat.completions.create(model="chat", messages=HI)


# -- a node like any other


async def test_it_is_a_node_of_the_cluster(config, open_store):
    """It registers, and leaves when it closes; what operators see and do is there for threads, not for its own loop."""
    registry = Registry(open_store())
    async with await open_mesh(config, name="worker") as mesh:
        (node,) = [found.info for found in await registry.nodes()]
        assert (node.id, node.state, node.port, node.pid) == (mesh.id, "alive", 0, os.getpid())

        with pytest.raises(modelmesh.WrongLoopError):
            mesh.status()
        assert await asyncio.to_thread(_look, mesh) == {
            "nodes": [mesh.id],
            "providers": ["alpha"],
            "pools": {"chat": {"active": 1, "standby": 0, "total": 1, "current_model": None}},
            "picked": "alpha.small",
            "windows": 1,
        }

    assert await registry.nodes() == []


def _look(mesh: modelmesh.ModelMesh) -> dict[str, Any]:
    assert "alpha.small [alpha] (active)" in mesh.describe("chat")
    assert mesh.deactivate("alpha.small", for_s=60).status == "standby"
    assert mesh.activate("alpha.small").status == "active"
    return {
        "nodes": [node.id for node in mesh.status().nodes],
        "providers": mesh.active_providers(),
        "pools": mesh.pool_status(),
        "picked": mesh.explain("chat-completion").picked,
        "windows": len(mesh.usage().pools),
    }


async def test_it_runs_new_versions_of_the_configuration(config, upstream):
    """All meshes are asked first, and go over to it with their streams under way."""
    new = {
        **config,
        "pools": {"chat": {"capability": "chat-completion"}, "second": {"models": ["alpha.small"]}},
    }
    async with await open_mesh(config) as mesh, await open_mesh(config) as other, mesh.client() as client:
        upstream.chunks.put_nowait("one")
        stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
        await asyncio.to_thread(_push, mesh, new)
        await wait_until(lambda: "second" in mesh.topology.pools and "second" in other.topology.pools)
        upstream.chunks.put_nowait("")

        assert "one" in [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        answer = await client.chat.completions.with_raw_response.create(model="second", messages=HI)
        assert answer.headers["x-modelmesh-pool"] == "second"


def _push(mesh: modelmesh.ModelMesh, document: dict[str, Any]) -> None:
    with mesh._ops() as ops:
        assert ops.push("config", {"document": document}).is_new


async def test_its_scheduler_reaches_its_own_node(config, upstream):
    """It has a provider's models listed by the only node there is, which has no port."""
    async with await open_mesh(config, scheduler=True):
        await wait_until(lambda: upstream.listed, timeout=20)


_WORKER = """
import asyncio, json, sys
import httpx, modelmesh

async def main(path, count):
    async with await modelmesh.ModelMesh.initialize(path, scheduler=False) as mesh:
        async with httpx.AsyncClient(transport=mesh.transport(), timeout=30) as client:
            print("ready", flush=True)
            body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
            sent = [client.post(f"{mesh.base_url}/chat/completions", json=body) for _ in range(int(count))]
            print("statuses", json.dumps([answer.status_code for answer in await asyncio.gather(*sent)]), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_meshes_and_nodes_share_a_limit_exactly(valkey_server, namespace, upstream, tmp_path):
    """Two meshes in two processes and a node beside them admit what is allowed, together and not one more."""
    limits = {"limits": {"rpm": 20, "concurrency": 1000}}
    config = mesh_of(upstream.base_url, url=valkey_server.url, namespace=namespace, **limits)
    path = tmp_path / "mesh.json"
    path.write_text(json.dumps(config))
    worker = ChildProcess([sys.executable, "-c", _WORKER, path, "15"], name="worker", cwd=_ROOT)
    node = ChildProcess(
        [sys.executable, "-m", "node", "-c", path, "--port", "0"],
        name="node",
        cwd=_ROOT,
        env={"MODELMESH_HOME": str(tmp_path / "node")},
    )
    try:
        async with await open_mesh(str(path)) as mesh:
            port = int((await node.wait_line(r'"port": (\d+)', 30))[1])
            statuses = await asyncio.gather(
                _ask(15, httpx.AsyncClient(transport=mesh.transport()), mesh.base_url),
                _ask(15, httpx.AsyncClient(), f"http://127.0.0.1:{port}/v1"),
            )
            found = json.loads((await worker.wait_line(r"statuses (.*)", 30))[1])
    finally:
        worker.close()
        node.close()

    counted = [*found, *statuses[0], *statuses[1]]
    assert (counted.count(200), counted.count(429)) == (20, 25)
    assert len(upstream.asked) == 20


async def _ask(count: int, client: httpx.AsyncClient, base_url: str) -> list[int]:
    body = {"model": "chat", "messages": HI}
    async with client:
        sent = [client.post(f"{base_url}/chat/completions", json=body, timeout=30) for _ in range(count)]
        return [answer.status_code for answer in await asyncio.gather(*sent)]


# -- beginning and end


async def test_every_kind_of_configuration_will_do(config, upstream, tmp_path):
    """A file, a mapping and a `MeshConfig` come to the same version."""
    path = tmp_path / "mesh.json"
    path.write_text(json.dumps(config))
    versions = set()
    for given in (str(path), path, config, read_config(config)):
        async with await open_mesh(given) as mesh:
            versions.add(mesh.topology.version)

    assert len(versions) == 1


async def test_a_wrong_configuration_tells_every_fault(config):
    """As the commands do, by the same class."""
    config["pools"]["chat"]["stratgy"] = "round-robin"
    config["providers"]["alpha"]["limits"] = {"rpm": -1}

    with pytest.raises(modelmesh.ConfigurationError) as refused:
        await open_mesh(config)

    assert len(refused.value.faults) == 2
    assert isinstance(refused.value, modelmesh.ModelMeshError)


async def test_closing_leaves_nothing(config, upstream):
    """No task, no connection, no child, however often it is closed; clients say that it is closed."""
    before = _holdings()
    mesh = await open_mesh(config, scheduler=True)
    client = mesh.client()
    await client.chat.completions.create(model="chat", messages=HI)

    await asyncio.gather(mesh.close(), mesh.close())
    await mesh.shutdown()

    with pytest.raises(modelmesh.MeshClosedError):
        await client.chat.completions.create(model="chat", messages=HI)
    await client.close()
    await wait_until(lambda: _holdings() == before, what=lambda: f"{_holdings()} to be {before}")


async def test_closing_lets_a_stream_finish(config, upstream, open_store):
    """A stream that runs is not cut, new calls are refused meanwhile, and the cluster sees a node that drains."""
    registry, mesh = Registry(open_store()), await open_mesh(config)
    async with mesh.client(max_retries=0) as client:
        upstream.chunks.put_nowait("one")
        stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
        closing = asyncio.create_task(mesh.close())
        await asyncio.sleep(0)
        with pytest.raises(modelmesh.MeshClosedError):
            await client.chat.completions.create(model="chat", messages=HI)
        await wait_until(lambda: _are_draining(registry))
        upstream.chunks.put_nowait("two")
        upstream.chunks.put_nowait("")

        assert [chunk.choices[0].delta.content async for chunk in stream if chunk.choices][:2] == [
            "one",
            "two",
        ]
        await closing


async def _are_draining(registry: Registry) -> bool:
    return [node.info.state for node in await registry.nodes()] == ["draining"]


async def test_a_store_that_does_not_answer_leaves_nothing(config, tmp_path):
    """The error names it, and everything that had begun is gone."""
    config["redis"]["url"] = f"unix://{tmp_path}/nobody"
    before = _holdings()

    with pytest.raises(modelmesh.StartError, match=r"nobody does not answer within 0\.2 s"):
        await open_mesh(config, scheduler=True, ready_within=0.2)

    await wait_until(lambda: _holdings() == before, what=lambda: f"{_holdings()} to be {before}")


async def test_a_node_that_fails_closes_the_mesh(config):
    """Without its background work it could not keep its promises."""
    mesh = await open_mesh(config)
    async with mesh.client(max_retries=0) as client:
        mesh._node.fault = RuntimeError("broken")
        mesh._node.failed.set()
        await wait_until(lambda: mesh.is_closed)

        with pytest.raises(modelmesh.MeshClosedError, match="closed itself.*broken"):
            await client.chat.completions.create(model="chat", messages=HI)
    await mesh.close()


async def test_a_name_that_cannot_be_one_is_refused(config):
    """It would stand in addresses."""
    with pytest.raises(ValueError, match="name: 'my program'"):
        await open_mesh(config, name="my program")


async def test_wishes_against_the_version_in_force_are_refused(
    valkey_server, namespace, open_store, monkeypatch
):
    """What the cluster runs is not narrowed down by one program, which hears so; without wishes it goes along."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-o")
    versions, document = (
        Versions(open_store(), node="test"),
        environment_document({"OPENAI_API_KEY": "x"}).document,
    )
    document["pools"]["other"] = {"capability": "chat-completion"}
    number = await versions.propose(document, Told("test", "", "digest"), base=0)
    await versions.decide(number, is_good=True)
    config = {"redis": {"url": valkey_server.url, "namespace": namespace}}

    def create(*names: str, **wishes: Any) -> None:
        modelmesh.create(*names, config=config, **wishes).close()

    with pytest.raises(modelmesh.ConfigurationError, match="version 1 of the configuration is in force"):
        await asyncio.to_thread(create, "chat-completion", strategy="round-robin")
    await asyncio.to_thread(create, "chat-completion")


async def test_the_embedded_store_is_shared_and_ends_with_the_last(config, home):
    """Two meshes without a Redis have one server between them; it outlives the first and ends with the second."""
    del config["redis"]
    before = _holdings()
    first = await open_mesh(config)
    second = await open_mesh(config)
    try:
        (child,) = {*_children()} - {*before[1]}
        assert len((await asyncio.to_thread(second.status)).nodes) == 2

        await second.close()
        assert child in _children()
    finally:
        await asyncio.gather(first.close(), second.close())

    await wait_until(lambda: _holdings() == before, what=lambda: f"{_holdings()} to be {before}")


def _holdings() -> tuple[int, list[int], int]:
    """Tasks, child processes, sockets."""
    gc.collect()
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    sockets = 0
    for link in links:
        try:
            sockets += os.readlink(link).startswith("socket:")
        except FileNotFoundError:
            continue
    mine = [task for task in asyncio.all_tasks() if "_serve" not in str(task.get_coro())]
    return len(mine), _children(), sockets


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


# -- a guest


async def test_the_program_stays_as_it_was(config, upstream, capfd, caplog):
    """Signals, logging, structlog, the collector, the loop's policy and standard output are the program's; events go to logging."""
    structlog.reset_defaults()  # as in a program that does not know it; tests that listen to logs leave it configured
    before = _surroundings()
    with caplog.at_level(logging.INFO, logger="modelmesh"):
        async with await open_mesh(config, scheduler=True) as mesh, mesh.client() as client:
            await client.chat.completions.create(model="chat", messages=HI)
            assert _surroundings() == before

    assert _surroundings() == before
    assert capfd.readouterr() == ("", "")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "modelmesh.requests"]
    assert json.loads(line)["model"] == "alpha.small"


def _surroundings() -> dict[str, Any]:
    root = logging.getLogger()
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "logging": (root.level, list(root.handlers), logging.getLogger("apscheduler").level),
        "structlog": structlog.is_configured(),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "policy": type(asyncio.get_event_loop_policy()),
        "excepthook": sys.excepthook,
    }
