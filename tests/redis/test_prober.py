"""The scheduler's probes: what it asks of nodes, when, and what it does when there is none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import httpx
import orjson
import pytest

from scheduler.jobs.probes import Probes
from scheduler.nodes import NobodyAliveError, NodeRefusedError, Nodes, NoNodeError
from scheduler.pulses import Pulses
from shared_state.config import MeshConfig
from shared_state.ledger import Outcome
from shared_state.registry import NodeInfo
from shared_state.topology import Topology, build_topology
from tests.redis.ground import BIG, DOMAIN, PROVIDER, SMALL, Bench, SteeredStore, make_pool

COOLDOWN_MS = 60_000
Answer = Callable[[httpx.Request], httpx.Response]


class Network:
    """Stands for all nodes: notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.answer: Answer = lambda _: httpx.Response(200, json={"verdict": "well", "latency_ms": 3})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answer(request)

    @property
    def models(self) -> list[str]:
        return [
            request.url.path.removeprefix("/ops/models/").removesuffix("/probe") for request in self.asked
        ]


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def nodes(steered: SteeredStore, network: Network) -> AsyncIterator[Nodes]:
    """Two live nodes, one that drains and one that died."""
    for name, state, ago_s in (
        ("n1", "alive", 0),
        ("n2", "alive", 0),
        ("n3", "draining", 0),
        ("n4", "alive", 60),
    ):
        await register(steered, name, state=state, ago_s=ago_s)
    found = Nodes(steered, token="t0p", transport=httpx.MockTransport(network))
    async with aclosing(found):
        yield found


async def register(
    store: SteeredStore, name: str, *, state: str = "alive", ago_s: float = 0, port: int = 80
) -> None:
    info = NodeInfo(name, f"{name}.test", port, 1, 0.0, state, "", "", "exact", 0)
    await store.client.hset(store.keys.nodes, name, orjson.dumps(asdict(info)))
    now_ms = int(await store.client.get(store.clock_key) or time.time() * 1000)
    await store.client.zadd(f"{store.keys.nodes}:seen", {name: now_ms - round(ago_s * 1000)})


def topology(**recovery: Any) -> Topology:
    """Both models in one pool with these rules."""
    account = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    models = {m: {"provider": PROVIDER, "capabilities": ["chat-completion"]} for m in (SMALL, BIG)}
    document = {
        "providers": {PROVIDER: account},
        "models": models,
        "pools": {"chat": {"models": [SMALL, BIG], "recovery": recovery}},
    }
    return build_topology(MeshConfig.model_validate(document))


def stand(store: SteeredStore, nodes: Nodes, **recovery: Any) -> tuple[Probes, Bench]:
    """The job, and a node whose requests fail."""
    built = topology(**recovery)
    bench = Bench(store, built.domains[DOMAIN], pool=make_pool(retry_limit=1))
    pulses = Pulses(store, list(built.domains), fresh_s=0)
    return Probes(store, built, nodes, pulses), bench


async def test_a_model_that_nobody_tries_is_probed_every_so_often(
    steered: SteeredStore, nodes: Nodes, network: Network
) -> None:
    """Not before its cooldown and the wait for real requests are over; then once an interval, as long as it waits."""
    probes, bench = stand(steered, nodes, probe_interval="100s")
    await bench.attempt(Outcome.FAILURE)
    counts = []
    for pass_ms in (0, COOLDOWN_MS, 99_999, 1, 1000, 99_000):
        await steered.pass_time(pass_ms)
        await register(steered, "n1")
        await probes.run(1)
        counts.append(len(network.asked))

    assert counts == [0, 0, 0, 1, 1, 2]
    assert network.models == [SMALL, SMALL]


async def test_real_requests_are_as_good_as_a_probe(
    steered: SteeredStore, nodes: Nodes, network: Network
) -> None:
    """A trial that runs, or a success that has brought the model back: nothing is left to ask."""
    probes, bench = stand(steered, nodes, probe_interval="1s")
    await bench.attempt(Outcome.FAILURE)
    await steered.pass_time(COOLDOWN_MS + 2000)
    await register(steered, "n1")
    trial, verdict = await bench.admit()
    assert verdict.trial
    await probes.run(1)
    await bench.end(trial)
    await probes.run(1)

    assert network.asked == []


async def test_an_account_is_probed_through_one_of_its_models(
    steered: SteeredStore, nodes: Nodes, network: Network
) -> None:
    """One request tells about all."""
    probes, bench = stand(steered, nodes, probe_interval="1s")
    await bench.attempt(Outcome.CREDENTIALS)
    await steered.pass_time(COOLDOWN_MS + 1000)
    await register(steered, "n1")
    await probes.run(1)

    assert len(network.asked) == 1


async def test_zero_leaves_recovery_to_requests(
    steered: SteeredStore, nodes: Nodes, network: Network
) -> None:
    """However long nobody comes; an operator's order is nobody's business anyway."""
    probes, bench = stand(steered, nodes, probe_interval=0)
    await bench.attempt(Outcome.FAILURE)
    await bench.order("deactivate", name=BIG)
    await steered.pass_time(10**9)
    await probes.run(1)

    assert network.asked == []


async def test_who_takes_the_lead_probes_once_what_waits(
    steered: SteeredStore, nodes: Nodes, network: Network
) -> None:
    """At once, whatever the cooldown; again only with another lead."""
    probes, bench = stand(steered, nodes, probe_on_start=True)
    await bench.attempt(Outcome.FAILURE)
    for token in (1, 1, 2, 2):
        await steered.pass_time(6000)
        await register(steered, "n1")
        await probes.run(token)

    assert network.models == [SMALL, SMALL]
    assert [orjson.loads(request.content) for request in network.asked] == [{"startup": True}] * 2


async def test_without_a_node_a_probe_is_owed(steered: SteeredStore, network: Network) -> None:
    """The cluster may only be starting."""
    async with aclosing(Nodes(steered, token=None, transport=httpx.MockTransport(network))) as nodes:
        probes, bench = stand(steered, nodes, probe_on_start=True)
        await bench.attempt(Outcome.FAILURE)
        await probes.run(1)
        assert network.asked == []

        await register(steered, "n1")
        await probes.run(1)
        assert network.models == [SMALL]
        assert "authorization" not in network.asked[0].headers


# -- the way to a node


async def test_live_nodes_are_asked_in_turn_and_with_the_token(nodes: Nodes, network: Network) -> None:
    """Neither one that drains nor one that died."""
    for _ in range(4):
        await nodes.post("models/x/probe", {})

    assert sorted(request.url.host for request in network.asked) == ["n1.test"] * 2 + ["n2.test"] * 2
    assert {request.headers["authorization"] for request in network.asked} == {"Bearer t0p"}


async def test_nodes_inside_programs_are_asked_at_home_alone(steered: SteeredStore) -> None:
    """They have no port: a scheduler elsewhere passes over them, one in the same program has its own way."""
    await register(steered, "p1", port=0)
    at_home, elsewhere = Network(), Network()
    others = Nodes(steered, token=None, transport=httpx.MockTransport(elsewhere))
    own = Nodes(
        steered,
        token=None,
        transport=httpx.MockTransport(elsewhere),
        at_home={"p1": httpx.MockTransport(at_home)},
    )
    async with aclosing(others), aclosing(own):
        with pytest.raises(NobodyAliveError):
            await others.post("models/x/probe", {})
        await own.post("models/x/probe", {})

    assert (at_home.models, elsewhere.models) == (["x"], [])


async def test_a_node_that_cannot_be_reached_is_passed_over(nodes: Nodes, network: Network) -> None:
    """Another one does the same; if none can, that is said."""

    def n1_is_away(request: httpx.Request) -> httpx.Response:
        if request.url.host == "n1.test":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"verdict": "well"})

    network.answer = n1_is_away
    assert [await nodes.post("x", {}) for _ in range(2)] == [{"verdict": "well"}] * 2

    def all_are_away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    network.answer = all_are_away
    with pytest.raises(NoNodeError, match="ConnectError"):
        await nodes.post("x", {})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(401), "MODELMESH_ADMIN_TOKEN"),
        (httpx.Response(503), "answered 503"),
        (httpx.Response(200, text="<html>"), "no JSON object"),
    ],
)
async def test_a_node_that_refuses_makes_the_job_fail(
    steered: SteeredStore, nodes: Nodes, network: Network, answer: httpx.Response, told: str
) -> None:
    """The status page tells what is missing; nobody is asked twice a second."""
    network.answer = lambda _: answer
    probes, bench = stand(steered, nodes, probe_on_start=True)
    await bench.attempt(Outcome.FAILURE)
    with pytest.raises(NodeRefusedError, match=told):
        await probes.run(1)
    await steered.pass_time(1000)
    await probes.run(1)

    assert len(network.asked) == 1
