"""The three ways to look at a silent provider: who is asked what, what it comes to, and that no probe counts twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest

from scheduler.jobs.health import HealthMonitor
from scheduler.nodes import Nodes
from shared_state.availability import DomainHealth, read_health
from shared_state.config import PoolConfig
from shared_state.config.root import MeshConfig
from shared_state.ledger import How, Outcome
from shared_state.shapes.status import ProbeView
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.ground import Caller
from tests.redis.scheduler_ground import DOMAIN, Node

TOKEN = 1000
PROVIDER = "alpha"
CHEAP, DEAR = "alpha.cheap", "alpha.dear"
LIST = f"providers/{PROVIDER}/models"


def topology_of(method: str, **rules: Any) -> Topology:
    provider = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    models = {
        name: {"provider": PROVIDER, "capabilities": ["chat-completion"], "pricing": {"input": price}}
        for name, price in ((DEAR, 9.0), (CHEAP, 1.0))
    }
    document = {
        "providers": {PROVIDER: {**provider, "quota_domain": DOMAIN}},
        "models": models,
        "pools": {"chat": {"models": [CHEAP, DEAR]}},
        "discovery": {"health": {"method": method, **rules}},
    }
    return build_topology(MeshConfig.model_validate(document))


def probed(verdict: str, cause: str | None = None) -> tuple[int, dict[str, Any]]:
    """A node's answer to the order to probe a model."""
    return 200, ProbeView(id="m", verdict=verdict, cause=cause).model_dump()


WELL, LISTED = probed("well"), (200, {"provider": PROVIDER, "models": []})
DOWN = probed("failed", "provider_unavailable")
UNLISTED = (502, {"error": {"code": "provider_unavailable", "message": "down"}})


class Answers(httpx.AsyncBaseTransport):
    """A node that answers by path below ``/ops/``; unless said otherwise all is well."""

    def __init__(self) -> None:
        self.say: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/ops/")
        self.asked.append(path)
        self.bodies.append(request.content)
        status, body = self.say.get(path, LISTED if path == LIST else WELL)
        return httpx.Response(status, content=orjson.dumps(body))


def probe_of(model: str) -> str:
    return f"models/{model}/probe"


class Ward:
    """A monitor and what it sees."""

    def __init__(self, store: Store, answers: Answers, nodes: Nodes) -> None:
        self.store, self.answers, self.nodes = store, answers, nodes
        self.caller = Caller(store, topology_of("standard").domains[DOMAIN])

    async def look(self, method: str, **rules: Any) -> DomainHealth:
        """One round; what was asked before is forgotten."""
        self.answers.asked.clear()
        await HealthMonitor(self.store, topology_of(method, **rules), self.nodes).run(TOKEN)
        return await read_health(self.store, DOMAIN)

    async def attempt(self, outcome: Outcome, model: str = CHEAP) -> None:
        """An attempt that the statistics hold, as traffic or a probe leaves it."""
        reservation, verdict = await self.caller.admit(model, how=How.PROBE)
        assert not verdict.code
        await self.caller.settle(reservation, outcome, pool=PoolConfig())


@pytest.fixture
async def ward(open_store: Callable[..., Store]) -> AsyncIterator[Ward]:
    store, answers = open_store(), Answers()
    await Node(store, topology_of("standard"), "n1").beat()
    nodes = Nodes(store, token="s3cret", transport=answers)
    yield Ward(store, answers, nodes)
    await nodes.aclose()


async def test_the_standard_way_asks_the_cheapest_model(ward: Ward) -> None:
    """One tiny request, within the configured time."""
    seen = await ward.look("standard", timeout="3s")

    assert ward.answers.asked == [probe_of(CHEAP)]
    assert orjson.loads(ward.answers.bodies[0]) == {"within": 3.0}
    assert seen.providers[PROVIDER].probed is not None
    assert seen.models[CHEAP].probed is not None
    assert seen.models[DEAR].probed is None


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (DOWN, 0.7),
        (probed("failed", "deadline_exceeded"), 0.7),
        (probed("failed", "provider_rate_limited"), 1.0),
        (probed("failed", "provider_authentication"), 1.0),
        (probed("rejected"), 1.0),
    ],
)
async def test_what_a_probe_comes_to(ward: Ward, answer: tuple[int, Any], score: float) -> None:
    """A server that does not answer well is ill; whoever refuses is there."""
    ward.answers.say[probe_of(CHEAP)] = answer
    seen = await ward.look("standard")

    assert (seen.providers[PROVIDER].score, seen.models[CHEAP].score) == (score, score)


async def test_where_no_model_may_be_asked_the_list_is(ward: Ward) -> None:
    """At a limit, under an order, or of a kind that has no probe."""
    ward.answers.say = {probe_of(CHEAP): probed("not_asked"), probe_of(DEAR): probed("no_probe")}
    seen = await ward.look("standard")

    assert ward.answers.asked == [probe_of(CHEAP), probe_of(DEAR), LIST]
    assert seen.providers[PROVIDER].probed is not None


async def test_nobody_draws_for_nothing(ward: Ward) -> None:
    """A model that only makes images is left to its traffic, however cheap it says it is."""
    document = topology_of("standard").config.model_dump(exclude_unset=True)
    document["models"][CHEAP] |= {"capabilities": ["text-to-image"]}
    topology = build_topology(MeshConfig.model_validate(document))
    await HealthMonitor(ward.store, topology, ward.nodes).run(TOKEN)

    assert ward.answers.asked == [probe_of(DEAR)]


async def test_failed_probes_of_the_standard_way_put_a_provider_out(ward: Ward) -> None:
    """Each round counts once, though the statistics hold the probe of the round before."""
    ward.answers.say[probe_of(CHEAP)] = DOWN
    for fails in (1, 2, 3):
        seen = await ward.look("standard")
        await ward.attempt(Outcome.FAILURE)
        assert seen.providers[PROVIDER].fails == fails
        assert ward.answers.asked == [probe_of(CHEAP)]

    assert seen.put_out == {PROVIDER}
    assert seen.providers[PROVIDER].score == pytest.approx(0.7**3)


async def test_the_comprehensive_way_asks_every_silent_model(ward: Ward) -> None:
    """A provider is as well as the best of its models; with traffic only its silent models are asked."""
    ward.answers.say[probe_of(DEAR)] = DOWN
    seen = await ward.look("comprehensive")
    assert sorted(ward.answers.asked) == [probe_of(CHEAP), probe_of(DEAR), LIST]
    assert (seen.providers[PROVIDER].score, seen.models[CHEAP].score) == (1.0, 1.0)
    assert seen.models[DEAR].score == pytest.approx(0.7)

    for model, outcome in ((CHEAP, Outcome.SUCCESS), (DEAR, Outcome.FAILURE), (CHEAP, Outcome.SUCCESS)):
        await ward.attempt(outcome, model)
    seen = await ward.look("comprehensive")
    assert ward.answers.asked == [probe_of(DEAR)]
    assert seen.models[DEAR].score == pytest.approx(0.49)


async def test_the_comprehensive_way_finds_a_provider_ill_by_its_list_or_by_all_of_its_models(
    ward: Ward,
) -> None:
    """Whichever says so."""
    ward.answers.say = {probe_of(CHEAP): DOWN, probe_of(DEAR): DOWN}
    assert (await ward.look("comprehensive")).providers[PROVIDER].score == pytest.approx(0.7)
    ward.answers.say = {LIST: UNLISTED}
    assert (await ward.look("comprehensive")).providers[PROVIDER].score == pytest.approx(0.49)


async def test_a_refused_rate_limit_is_silence(ward: Ward) -> None:
    """It is no evidence, so the provider is asked for its list."""
    await ward.attempt(Outcome.RATE_LIMITED)
    seen = await ward.look("lightweight")

    assert ward.answers.asked == [LIST]
    assert (seen.providers[PROVIDER].score, seen.models[CHEAP].score) == (1.0, 1.0)
