"""What operators see of a running cluster through the command line: quotas, statistics, events, books."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from modelmesh.cli.app import app
from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster, Node
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_ROOT = Path(__file__).resolve().parents[2]
_ASKED = 12


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """A pool of two free accounts, one of which fails at first."""
    free = pool(
        "free",
        Member("alpha", limits={"rpd": 100, "rpm": 40}),
        Member("beta", limits={"rpd": 50}),
        strategy="round-robin",
    )
    return start_cluster(mesh(free), mocks={"alpha": {}, "beta": {}}, nodes=2)


class Shell:
    """Runs `modelmesh` against an address."""

    def __init__(self, url: str) -> None:
        self._address = {"MODELMESH_URL": url, "MODELMESH_ADMIN_TOKEN": ""}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """In a process of its own."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelmesh", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, **self._address},
        )

    async def run(self, *arguments: str) -> str:
        """Its output; it must end well."""
        result = await asyncio.to_thread(CliRunner(env=self._address).invoke, app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run(*arguments, "--json"))


@pytest.fixture
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster.base_url)


async def test_the_numbers_are_those_of_the_requests(cluster: Cluster, shell: Shell):
    """Quotas, statistics and books tell of the same traffic, in JSON and as tables."""
    cluster.order("free.beta", "500", times=2)
    async with cluster.client() as client:
        await asyncio.gather(*(ask(client, "free") for _ in range(_ASKED)))
    await cluster.settled_books()
    calls = {model: len(cluster.seen(model)) for model in ("free.alpha", "free.beta")}
    usage, stats, books = [
        await shell.json(*words) for words in (("usage",), ("stats", "--minutes", "10"), ("audit",))
    ]
    shown = await shell.run("usage")
    (free,) = usage["pools"]
    day = next(quota for quota in free["quotas"] if quota["unit"] == "requests_per_day")
    accounts = {account["id"]: account["models"][0]["windows"] for account in usage["accounts"]}
    used = {
        name: next(window["used"] for window in windows if window["name"] == "rpd")
        for name, windows in accounts.items()
    }

    assert sum(calls.values()) == _ASKED + 2
    assert used == {"free-alpha": calls["free.alpha"], "free-beta": calls["free.beta"]}
    assert day["limit"] == 150
    assert day["remaining"] + sum(_held(windows) for windows in accounts.values()) == 150 - sum(
        calls.values()
    )
    assert day["rate"] > 0
    assert {row["name"]: row["requests"] for row in stats["rows"]} == calls
    assert (stats["totals"]["ok"], stats["totals"]["failed"]) == (_ASKED, 2)
    assert {sum_["name"]: sum_["settled"] for sum_ in books["balances"]["models"]} == calls
    assert set(books["causes"].values()) == {0}
    assert "free  2 of 2 active" in shown


def _held(windows: list[dict[str, Any]]) -> float:
    found: float = next(window["held"] for window in windows if window["name"] == "rpd")
    return found


async def test_prometheus_is_told_the_same(cluster: Cluster, shell: Shell):
    """Quotas of the pool, and the scheduler's word that the books balance."""
    async with httpx.AsyncClient(verify=False, base_url=cluster.nodes[0].base_url) as client:

        async def told() -> dict[str, float] | None:
            lines = (await client.get("/metrics")).text.splitlines()
            samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            found = {name: float(value) for name, value in samples.items()}
            return found if any("books_difference" in name for name in found) else None

        samples = await wait_until(told, interval=0.5, what="the audit to be told")
    off = {name: value for name, value in samples.items() if name.startswith("modelmesh_books_difference")}

    assert len(off) == 4
    assert set(off.values()) == {0}
    assert 0 < samples['modelmesh_pool_remaining{pool="free",unit="requests_per_day"}'] <= 150
    assert samples['modelmesh_pool_dry_seconds{pool="free"}'] > 0


async def test_events_are_followed_over_the_drain_of_a_node(cluster: Cluster, shell: Shell):
    """A node that drains ends its feeds at once, and the reader goes on as soon as a node answers."""
    node, other = cluster.nodes
    following = await Shell(node.base_url).start("events", "--follow", "--last", "0", "--json")
    assert following.stdout is not None
    try:
        first = await _told(cluster, other, following.stdout, "before")
        await node.process.terminate()  # does not wait for the drain's deadline of 30 s
        await node.restart()
        second = await _told(cluster, other, following.stdout, "after")
    finally:
        following.terminate()
        await following.communicate()
    latest = await shell.json("events", "--last", "200")
    reasons = [event["reason"] for event in latest if event["type"] == "model_deactivated"]

    assert (first["reason"], second["reason"]) == ("before", "after")
    assert (first["model"], first["type"]) == ("free.alpha", "model_deactivated")
    assert {"before", "after"} <= set(reasons)
    assert reasons[-1] == "after"


async def _told(cluster: Cluster, node: Node, lines: asyncio.StreamReader, reason: str) -> dict[str, Any]:
    """The next event of that reason, which is caused again and again until the reader has heard it."""

    async def cause() -> None:
        while True:
            await cluster.ops("models/free.alpha/deactivate", order={"reason": reason}, node=node)
            await cluster.ops("models/free.alpha/activate", order={}, node=node)
            await asyncio.sleep(0.2)

    causing = asyncio.create_task(cause())
    try:
        async with asyncio.timeout(15):
            while True:
                event: dict[str, Any] = json.loads(await lines.readline())
                if event["reason"] == reason and event["type"] == "model_deactivated":
                    return event
    finally:
        causing.cancel()


async def test_every_node_has_the_page(cluster: Cluster):
    """The document, and each of its parts through the load balancer, whichever node answers."""
    async with httpx.AsyncClient(base_url=cluster.base_url, timeout=10.0) as client:
        document = await client.get("/ui")
        script = await client.get(
            "/" + document.text.partition('<script type="module" src="')[2].split('"')[0]
        )

    assert (document.status_code, script.status_code) == (200, 200)
    assert "immutable" in script.headers["cache-control"]
    assert "default-src 'none'" in document.headers["content-security-policy"]
