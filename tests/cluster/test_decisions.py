"""Decisions over three nodes: every recorded request replays to the same pick, whoever is asked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.cluster.calls import HELLO
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, Section, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_REQUESTS = 330
_AT_ONCE = 16
_PRICED = {"pricing": {"input": 1.0, "output": 2.0}}
#: What the pools of these strategies need besides; the others need nothing.
_RULES: dict[str, Section] = {
    "canary": {"weights": {"canary.quiet": 0.2}},
    "priority-selection": {"model_priority": ["priority-selection.beta"]},
    "session-stickiness": {"session_timeout": "60s"},
}
_STRATEGIES = (
    "stick-until-failure",
    "priority-selection",
    "round-robin",
    "cost-first",
    "latency-first",
    "session-stickiness",
    "rate-limit-aware",
    "load-balanced",
    "least-busy",
    "power-of-two",
    "canary",
)
_POOLS = [
    pool(
        name,
        Member("alpha", limits={"rpm": 12}, model=_PRICED),
        Member("beta", model={"pricing": {"input": 0.5, "output": 9.0}}),
        Member("quiet", model=_PRICED),
        strategy=name,
        deactivation={"retry_limit": 2},
        recovery={"cooldown": "300ms", "ramp": [0.3, 0.6, 1.0]},
        **_RULES.get(name, {}),
    )
    for name in _STRATEGIES
]


@pytest.fixture
async def cluster(start_cluster: Callable[..., Cluster]) -> AsyncIterator[Cluster]:
    decisions = {"sample": 1.0, "max_per_second": 1000}
    config = mesh(*_POOLS, observability={"decisions": decisions})
    yield start_cluster(config, mocks={"alpha": {}, "beta": {}, "quiet": {}}, nodes=3, schedulers=1)


def _requests() -> list[tuple[str, Section, dict[str, str]]]:
    """Ids, bodies and headers: some by capability, some with sessions, caps or wishes that nobody can meet."""
    chance, made = random.Random(11), []
    for number in range(_REQUESTS):
        name = _STRATEGIES[number % len(_STRATEGIES)] if chance.random() < 0.9 else "chat-completion"
        body: Section = {"model": name, "messages": HELLO, "max_tokens": chance.randint(1, 50)}
        headers = {"x-request-id": f"decide-{number}"}
        if chance.random() < 0.4:
            headers["x-modelmesh-session"] = f"talk-{chance.randint(0, 5)}"
        if chance.random() < 0.1:
            headers["x-modelmesh-max-price"] = chance.choice(["0.0001", "1"])
        if chance.random() < 0.1:
            headers["x-modelmesh-provider"] = f"{name}-quiet"
        made.append((headers["x-request-id"], body, headers))
    return made


async def _send_all(cluster: Cluster) -> Counter[int]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def send(client: httpx.AsyncClient, body: Section, headers: dict[str, str]) -> int:
        async with room:
            return (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code

    async with httpx.AsyncClient(verify=False, base_url=cluster.base_url, timeout=20.0) as client:
        return Counter(
            await asyncio.gather(*(send(client, body, headers) for _, body, headers in _requests()))
        )


async def test_every_recorded_decision_replays_to_the_same_pick(cluster: Cluster):
    """All strategies, with limits, failures, recoveries, sessions and caps; replayed by another node than the one that served."""
    for name in _STRATEGIES:
        cluster.order(f"{name}.beta", "500", times=3)
    statuses = await _send_all(cluster)
    odd = []
    nodes: Counter[str] = Counter()
    met: Counter[str] = Counter()
    async with httpx.AsyncClient(verify=False, timeout=10.0) as client:
        for number, (request_id, _, _) in enumerate(_requests()):
            node = cluster.nodes[number % len(cluster.nodes)]
            again = await _replay(client, f"{node.base_url}/ops/requests/{request_id}/replay")
            nodes[again["decision"]["node"].partition("-")[0]] += 1
            met.update(step["outcome"] or step["verdict"] for step in again["decision"]["steps"])
            met.update(target["role"] for plan in again["decision"]["plans"] for target in plan["targets"])
            if not again["same"]:
                odd.append({name: again[name] for name in ("request_id", "missing", "differences")})

    assert odd == []
    assert statuses[200] > _REQUESTS * 0.8
    assert len(nodes) == 3
    assert nodes.total() == _REQUESTS
    assert {"success", "failure", "at_limit", "trial"} <= met.keys(), met


async def _replay(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """The replay, once the record has arrived."""

    async def arrived() -> dict[str, Any] | None:
        answer = await client.get(url)
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 else None

    return await wait_until(arrived, interval=0.1, what=f"{url} to be recorded")
