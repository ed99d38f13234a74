"""What a node weighs: modules at its start, memory of open streams, memory of readers that do not read."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import httpx
import pytest

from benchmarks.meters import rss_bytes
from benchmarks.scenarios import Scenario, Target
from benchmarks.stream_clients import Streams
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool, with_addresses
from tests.support.processes import ChildProcess, free_port, wait_until
from tests.support.valkey import ValkeyServer

_ROOT: Final = Path(__file__).resolve().parents[2]
#: What a node with our own engines never needs, though some of it is installed and libraries would take it along.
_STRANGERS: Final = frozenset(
    [
        "aiohttp",
        "apscheduler",
        "attr",
        "click",
        "h11",
        "h2",
        "hypercorn",
        "jinja2",
        "modelmesh",
        "openai",
        "opentelemetry",
        "pygments",
        "rich",
        "scheduler",
        "sqlalchemy",
        "tiktoken",
        "typer",
    ]
)
#: A node that begins with few descriptors and tells at its end what it has come to.
_TELLING: Final = """
import atexit, resource, runpy, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
atexit.register(lambda: print("modules", *sorted(sys.modules), flush=True))
atexit.register(lambda: print("descriptors", *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True))
runpy.run_module("node", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
async def told(tmp_path: Path) -> str:
    """What a node has told after a whole life: start, a request, a scrape, the end."""
    config = tmp_path / "mesh.json"
    config.write_text(
        json.dumps(with_addresses(mesh(pool("lean", "alpha")), {"alpha": "http://127.0.0.1:9/v1"}))
    )
    port = free_port()
    with closing(ValkeyServer()) as valkey:
        valkey.start()
        command = [sys.executable, "-c", _TELLING, "-c", str(config), "--redis", valkey.url]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with closing(ChildProcess(command, name="lean", cwd=_ROOT)) as process:
            await process.wait_line(r'"event": ?"ready"', 15.0)
            async with httpx.AsyncClient(verify=False, base_url=f"http://127.0.0.1:{port}") as client:
                asked = {"model": "lean", "messages": [{"role": "user", "content": "Hi"}]}
                assert (await client.post("/v1/chat/completions", json=asked)).status_code == 502
                assert (await client.get("/metrics")).status_code == 200
            assert await process.terminate() == 0
            return process.log()


def test_a_node_imports_nothing_that_it_does_not_need_and_takes_all_descriptors(told: str) -> None:
    """Each stranger costs every node megabytes and milliseconds; each stream takes two descriptors."""
    words = {line.split()[0]: line.split()[1:] for line in told.splitlines()}
    soft, hard = words["descriptors"]

    assert "node.service" in words["modules"]
    assert set() == _STRANGERS.intersection(name.partition(".")[0] for name in words["modules"])
    assert hard == soft


async def test_an_open_stream_weighs_little(start_cluster: Callable[..., Cluster]) -> None:
    """Below 60 kB, prompt of 2 kB and both connections included; and all of them are settled when their callers leave."""
    cluster = start_cluster(mesh(pool("calm", "alpha")), mocks={"alpha": {"uvloop": True}}, nodes=1)
    cluster.order("calm.alpha", "tokens=2,stall-after=1")
    node, load = cluster.nodes[0], Scenario("calm", "", "calm", "", 0, 2)
    warm_up = Streams(node.port, load.request(Target(node.port)), events=load.events)
    streams = Streams(node.port, load.request(Target(node.port)), events=load.events)
    with closing(warm_up), closing(streams):
        await warm_up.open(30, per_s=300)
        await wait_until(lambda: warm_up.speaking == 30, what="the first streams to speak")
        before = rss_bytes(node.process.pid)
        await streams.open(300, per_s=300)
        await wait_until(lambda: streams.speaking == 300, what="all streams to speak")
        held = rss_bytes(node.process.pid) - before
    books = await cluster.settled_books()

    assert held / 300 < 60_000
    assert books["totals"]["settled"] == 330
    assert books["totals"]["abandoned"] == 0


_EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"flood " * 1300)
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)


@asynccontextmanager
async def flooding() -> AsyncIterator[SimpleNamespace]:
    """A provider that sends as much as it can."""
    callers: list[asyncio.StreamWriter] = []

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(_CHUNK)
                await writer.drain()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        yield SimpleNamespace(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        for writer in callers:
            writer.transport.abort()


async def test_readers_that_do_not_read_cost_little_and_are_given_up() -> None:
    """Each holds less than 500 kB however much its provider sends; others are served; their time is that of the call."""
    readers = 20
    member = Member("flood", provider={"timeouts": {"total": "4s"}})
    cluster = Cluster(
        mesh(pool("flood", member), pool("calm", "alpha")), mocks={"alpha": {}}, nodes=1, schedulers=0
    )
    async with flooding() as provider:
        cluster.mocks["flood"] = provider  # type: ignore[assignment]  # only its address is asked for
        with closing(cluster.start()):
            node, load = cluster.nodes[0], Scenario("flood", "", "flood", "", 0, 1)
            streams = Streams(node.port, load.request(Target(node.port)), events=0)
            with closing(streams):
                before = rss_bytes(node.process.pid)
                await streams.open(readers, per_s=100, is_lazy=True)
                await wait_until(lambda: streams.heard == readers, what="all readers to have begun")
                await asyncio.sleep(1.5)  # nothing tells that no more is taken
                held = rss_bytes(node.process.pid) - before
                async with cluster.client(node) as client:
                    answer = await client.chat.completions.create(
                        model="calm", messages=[{"role": "user", "content": "Hi"}]
                    )
                books = await cluster.settled_books(within_s=10.0)

    assert held / readers < 500_000
    assert answer.choices[0].message.content
    assert readers + 1 == books["totals"]["settled"]
