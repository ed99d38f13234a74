"""Discovery on a real server: lists and health are kept once, told once, and acted on; whoever leads, and whoever led."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from node.api.application import build_application
from node.api.auth import Doorkeeper
from node.ops.routes import ops_routes
from scheduler.jobs.health import HealthMonitor
from scheduler.jobs.sync import Sync
from scheduler.nodes import NodeRefusedError, Nodes, NoNodeError
from shared_state.availability import DomainHealth, Health, Move, keep_health, read_health
from shared_state.config.root import MeshConfig
from shared_state.domains import order, read_domain
from shared_state.errors import FencedOffError, ProviderUnavailableError
from shared_state.ledger import Outcome
from shared_state.listings import RETIRED, ModelNews, ModelOrder, keep_listing, read_listing
from shared_state.shapes.listing import ListedModel, ListingView
from shared_state.state import EntityState
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.office import open_office
from tests.redis.scheduler_ground import DOMAIN, MODEL, Node, make_config, news_of, put_minute
from tests.unit.node.api.asgi import ask

TOKEN = 1000
PROVIDER, UPSTREAM = "alpha", "small"
DOWN = (502, {"error": {"code": "provider_unavailable", "message": "down"}})


def listing(*names: str, **said: Any) -> tuple[int, dict[str, Any]]:
    """A node's answer that the provider lists these."""
    models = [ListedModel(id=name, **said) for name in names]
    return 200, ListingView(provider=PROVIDER, models=models).model_dump()


def topology_of(*, sync: dict[str, Any] | None = None, health: dict[str, Any] | None = None) -> Topology:
    discovery = {
        "sync": {"interval": 1e-6, "on_deprecated_model": "deactivate", **(sync or {})},
        "health": health or {},
    }
    return build_topology(MeshConfig.model_validate({**make_config(), "discovery": discovery}))


class Answers(httpx.AsyncBaseTransport):
    """Stands for the operators' API of all nodes; `say` is what they answer to everything."""

    def __init__(self) -> None:
        self.say: tuple[int, Any] = listing(UPSTREAM)
        self.deaf: set[str] = set()
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.host in self.deaf:
            raise httpx.ConnectError("deaf")
        status, body = self.say
        return httpx.Response(status, content=orjson.dumps(body))


@pytest.fixture
async def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def nodes(store: Store, answers: Answers) -> AsyncIterator[Nodes]:
    """One live node."""
    await Node(store, topology_of(), "n1").beat()
    nodes = Nodes(store, token="s3cret", transport=answers)
    yield nodes
    await nodes.aclose()


async def model_state(store: Store) -> EntityState:
    _, state = await read_domain(store, topology_of().domains[DOMAIN])
    return state.models[MODEL]


async def provider_state(store: Store) -> EntityState:
    _, state = await read_domain(store, topology_of().domains[DOMAIN])
    return state.providers[PROVIDER]


class TestNodes:
    async def test_a_live_node_is_asked_with_the_token(self, nodes: Nodes, answers: Answers) -> None:
        """By its address in the registry."""
        answer = await nodes.get("providers/alpha/models", timeout_s=1)

        (request,) = answers.asked
        assert (answer.status, str(request.url)) == (200, "http://127.0.0.1:1/ops/providers/alpha/models")
        assert request.headers["authorization"] == "Bearer s3cret"

    async def test_nobody_asks_the_dead_or_the_draining(self, store: Store, answers: Answers) -> None:
        """They take no new work."""
        await Node(store, topology_of(), "dead").beat(seconds_ago=60)
        nodes = Nodes(store, token=None, transport=answers)

        with pytest.raises(NoNodeError, match="none is registered"):
            await nodes.get("status", timeout_s=1)
        assert answers.asked == []
        await nodes.aclose()

    @pytest.mark.parametrize(
        ("say", "why"),
        [
            ((503, {"error": {"code": "state_unavailable"}}), "answered 503"),
            ((500, "oops"), "answered 500"),
        ],
    )
    async def test_the_next_one_is_asked_when_one_cannot_say(
        self, store: Store, nodes: Nodes, answers: Answers, say: tuple[int, Any], why: str
    ) -> None:
        """And if nobody can, the error says why."""
        await Node(store, topology_of(), "n2").beat()
        answers.say = say

        with pytest.raises(NoNodeError, match=why):
            await nodes.get("status", timeout_s=1)
        assert len(answers.asked) == 2

    async def test_a_token_that_nobody_takes_is_told(self, nodes: Nodes, answers: Answers) -> None:
        """It would not be taken elsewhere either."""
        answers.say = (401, {"error": {"code": "invalid_api_key"}})

        with pytest.raises(NodeRefusedError, match="MODELMESH_ADMIN_TOKEN"):
            await nodes.get("status", timeout_s=1)

    async def test_a_node_that_is_away_costs_one_attempt(self, nodes: Nodes, answers: Answers) -> None:
        """It may have died within its lease."""
        answers.deaf = {"127.0.0.1"}

        with pytest.raises(NoNodeError, match="no live node answers: ConnectError"):
            await nodes.get("status", timeout_s=1)


class TestSync:
    async def test_a_new_model_is_told_once(self, store: Store, nodes: Nodes, answers: Answers) -> None:
        """Also when a second scheduler looks at the same list."""
        sync = Sync(store, topology_of(), nodes)
        await sync.run(TOKEN)
        assert await news_of(store, "model_discovered") == []

        answers.say = listing(UPSTREAM, "brand-new")
        await sync.run(TOKEN)
        await sync.run(TOKEN)
        await Sync(store, topology_of(), nodes).run(TOKEN + 1)

        (event,) = await news_of(store, "model_discovered")
        assert (event["id"], event["kind"], event["node"]) == ("alpha/brand-new", "model", "scheduler")
        kept = await read_listing(store, DOMAIN, PROVIDER)
        assert [m.id for m in kept.models] == [UPSTREAM, "brand-new"]
        assert await store.client.pttl(store.keys.listing(DOMAIN, PROVIDER)) > 0

    async def test_a_retired_model_rests_until_it_is_listed_again(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """By an order like an operator's, whose reason says so."""
        sync = Sync(store, topology_of(), nodes)
        await sync.run(TOKEN)
        answers.say = listing("other")
        await sync.run(TOKEN)
        out = await model_state(store)
        answers.say = listing(UPSTREAM)
        await sync.run(TOKEN)
        back = await model_state(store)

        assert (out.status, out.reason, out.mode, out.until_ms) == ("standby", RETIRED, "manual", 0)
        assert back.status == "active"
        assert [e["reason"] for e in await news_of(store, "model_deprecated")] == ["no longer listed"]

    async def test_sizes_other_than_configured_are_told_once(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """Whoever leads; with the first list."""
        document = {**make_config(), "discovery": {"sync": {"interval": 1e-6}}}
        document["models"][MODEL]["constraints"] = {"context_window": 8192}  # type: ignore[index]
        topology = build_topology(MeshConfig.model_validate(document))
        answers.say = listing(UPSTREAM, context_window=4096)
        for token in (TOKEN, TOKEN, TOKEN + 1):
            await Sync(store, topology, nodes).run(token)

        (event,) = await news_of(store, "model_changed")
        assert (event["id"], event["reason"]) == (MODEL, "context_window 4096 listed, 8192 configured")

    async def test_an_operators_word_holds(self, store: Store, nodes: Nodes, answers: Answers) -> None:
        """What they brought back stays, what they took out stays out."""
        sync = Sync(store, topology_of(), nodes)
        await sync.run(TOKEN)
        answers.say = listing("other")
        await sync.run(TOKEN)
        await order(store, DOMAIN, kind="model", name=MODEL, action="activate")
        await sync.run(TOKEN)
        assert (await model_state(store)).status == "active"

        await order(store, DOMAIN, kind="model", name=MODEL, action="deactivate", reason="a whim")
        answers.say = listing(UPSTREAM)
        await sync.run(TOKEN)

        state = await model_state(store)
        assert (state.status, state.reason) == ("standby", "a whim")

    async def test_told_only_where_that_is_the_rule(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """``notify`` leaves the model where it is."""
        sync = Sync(store, topology_of(sync={"on_deprecated_model": "notify"}), nodes)
        await sync.run(TOKEN)
        answers.say = listing("other")
        await sync.run(TOKEN)

        assert (await model_state(store)).status == "active"
        assert len(await news_of(store, "model_deprecated")) == 1

    @pytest.mark.parametrize("say", [DOWN, listing(), (200, {"provider": PROVIDER}), (200, None)])
    async def test_a_list_that_is_none_is_not_believed(
        self, store: Store, nodes: Nodes, answers: Answers, say: tuple[int, Any]
    ) -> None:
        """It would take out every model of the provider."""
        sync = Sync(store, topology_of(), nodes)
        await sync.run(TOKEN)
        answers.say = say
        await sync.run(TOKEN)

        assert (await model_state(store)).status == "active"
        assert len((await read_listing(store, DOMAIN, PROVIDER)).models) == 1

    async def test_a_takeover_waits_for_the_interval(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """When the list was read last is known to all."""
        slow = topology_of(sync={"interval": 3600})
        await Sync(store, slow, nodes).run(TOKEN)
        await Sync(store, slow, nodes).run(TOKEN + 1)

        assert len(answers.asked) == 1

    async def test_the_same_call_again_changes_nothing(self, store: Store) -> None:
        """A reply may be lost; and a leader that slept finds the script closed."""

        async def keep(*, token: int = TOKEN, version: int = 0) -> bool:
            return await keep_listing(
                *(store, DOMAIN, PROVIDER, [ListedModel(id="x")]),
                token=token,
                version=version,
                time_ms=1,
                kept_s=60,
                news=[ModelNews("model_deprecated", MODEL, "retired", 0, {"more": 3})],
                orders=[ModelOrder(MODEL, "deactivate")],
            )

        assert [await keep(), await keep()] == [True, False]
        (event,) = await news_of(store, "model_deprecated")
        assert event["numbers"] == {"more": 3}
        assert len(await news_of(store, "model_deactivated")) == 1
        assert await keep(token=TOKEN + 1, version=1)
        with pytest.raises(FencedOffError):
            await keep(version=2)


class TestHealth:
    async def test_failed_probes_put_a_silent_provider_out_and_a_good_one_brings_it_back(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """Three in a row, whoever leads meanwhile."""
        monitor = HealthMonitor(store, topology_of(), nodes)
        answers.say = DOWN
        await monitor.run(TOKEN)
        await monitor.run(TOKEN)
        before = await provider_state(store)
        await HealthMonitor(store, topology_of(), nodes).run(TOKEN + 1)
        await monitor.run(TOKEN + 1)
        out = await provider_state(store)
        answers.say = listing(UPSTREAM)
        await monitor.run(TOKEN + 1)

        assert before.status == "active"
        assert (out.status, out.reason, out.mode) == ("standby", "outage", "trial")
        assert (await provider_state(store)).status == "active"
        told = [(e["reason"], e["numbers"]) for e in await news_of(store, "provider_health_changed")]
        assert [reason for reason, _ in told] == ["degraded", "unavailable"]
        assert told[0][1] == {"availability_permille": 700}
        assert await store.client.pttl(store.keys.health(DOMAIN)) > 0

    async def test_traffic_spares_the_probe(self, store: Store, nodes: Nodes, answers: Answers) -> None:
        """Models have their own average; failures of a minute count once."""
        node, monitor = Node(store, topology_of(), "n1"), HealthMonitor(store, topology_of(), nodes)
        for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS):
            await node.settle(await node.admit(), outcome)
        await monitor.run(TOKEN)
        once = await read_health(store, DOMAIN)
        assert answers.asked == []

        await monitor.run(TOKEN)
        twice = await read_health(store, DOMAIN)

        share, weight = 2 / 3, 1 - 0.9**3
        assert once.providers[PROVIDER].score == pytest.approx(1 - weight * (1 - share))
        assert once.models[MODEL].score == once.providers[PROVIDER].score
        assert twice.models[MODEL].score == once.models[MODEL].score
        assert len(answers.asked) == 1

    async def test_no_node_is_no_verdict(self, store: Store, nodes: Nodes, answers: Answers) -> None:
        """The provider cannot help it."""
        answers.deaf = {"127.0.0.1"}
        monitor = HealthMonitor(store, topology_of(health={"failure_threshold": 1}), nodes)

        with pytest.raises(NoNodeError):
            await monitor.run(TOKEN)

        assert (await provider_state(store)).status == "active"
        assert (await read_health(store, DOMAIN)).providers[PROVIDER].probed is None

    @pytest.mark.parametrize(
        "code",
        ["models_not_listed", "provider_authentication", "provider_rate_limited", "provider_quota_exhausted"],
    )
    async def test_whoever_refuses_is_there(
        self, store: Store, nodes: Nodes, answers: Answers, code: str
    ) -> None:
        """A key that may not list models serves requests all the same."""
        answers.say = (502, {"error": {"code": code}})
        await HealthMonitor(store, topology_of(health={"failure_threshold": 1}), nodes).run(TOKEN)

        assert (await read_health(store, DOMAIN)).providers[PROVIDER].score == 1.0
        assert (await provider_state(store)).status == "active"

    async def test_what_others_put_out_is_theirs(self, store: Store, nodes: Nodes, answers: Answers) -> None:
        """A probe that goes well ends only what failed probes have begun."""
        await order(store, DOMAIN, kind="provider", name=PROVIDER, action="deactivate", reason="a whim")
        monitor = HealthMonitor(store, topology_of(health={"failure_threshold": 1}), nodes)
        answers.say = DOWN
        await monitor.run(TOKEN)
        answers.say = listing(UPSTREAM)
        await monitor.run(TOKEN)

        assert (await provider_state(store)).reason == "a whim"

    async def test_an_outage_of_the_traffic_is_for_the_traffic_to_end(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """A list may be had where nothing else works; only who was put out by probes comes back by one."""
        monitor = HealthMonitor(store, topology_of(health={"failure_threshold": 1}), nodes)
        answers.say = DOWN
        await monitor.run(TOKEN)
        await order(store, DOMAIN, kind="provider", name=PROVIDER, action="activate")
        node = Node(store, topology_of(), "n1")
        held = [await node.admit() for _ in range(5)]
        for reservation in held:
            await node.settle(reservation, Outcome.UNREACHABLE)
        await monitor.run(TOKEN)  # takes the traffic
        await monitor.run(TOKEN)
        answers.say = listing(UPSTREAM)
        await monitor.run(TOKEN)

        assert ((await provider_state(store)).status, len(answers.asked)) == ("standby", 3)
        assert len(await news_of(store, "provider_deactivated")) == 2  # by probes, then by traffic

    async def test_who_is_watched_no_more_is_forgotten(self, store: Store, nodes: Nodes) -> None:
        """A configuration may lose models and providers."""
        old = DomainHealth(providers={"former": Health()}, models={"former.model": Health()})
        await keep_health(store, DOMAIN, old, token=TOKEN, kept_s=60, changed=[], moves=[], cooldown_s=60)
        await HealthMonitor(store, topology_of(), nodes).run(TOKEN)

        kept = await read_health(store, DOMAIN)
        assert (set(kept.providers), set(kept.models)) == ({PROVIDER}, {MODEL})

    async def test_a_long_interval_misses_nothing(self, store: Store, nodes: Nodes) -> None:
        """Minutes since the last look are read, however many there were."""
        monitor = HealthMonitor(store, topology_of(), nodes)
        await monitor.run(TOKEN)
        kept = await read_health(store, DOMAIN)
        minute = kept.models[MODEL].minute
        ago = DomainHealth(
            round=kept.round,
            providers={PROVIDER: Health(minute=minute - 10)},
            models={MODEL: Health(minute=minute - 10)},
        )
        await keep_health(store, DOMAIN, ago, token=TOKEN, kept_s=60, changed=[], moves=[], cooldown_s=60)
        await put_minute(store, minute - 7, failed=1)
        await monitor.run(TOKEN)

        assert (await read_health(store, DOMAIN)).models[MODEL].score == 0.9

    async def test_the_same_round_again_changes_nothing(self, store: Store) -> None:
        """A reply may be lost, and two schedulers may have judged by the same records."""

        async def keep(score: float) -> bool:
            return await keep_health(
                *(store, DOMAIN, DomainHealth(providers={PROVIDER: Health(score=score)})),
                token=TOKEN,
                kept_s=60,
                changed=[PROVIDER],
                moves=[Move(PROVIDER, "out")],
                cooldown_s=60,
            )

        assert [await keep(0.5), await keep(0.1)] == [True, False]
        assert len(await news_of(store, "provider_health_changed")) == 1
        assert len(await news_of(store, "provider_deactivated")) == 1
        assert (await read_health(store, DOMAIN)).providers[PROVIDER].score == 0.5

    async def test_an_operator_overrides_for_as_many_probes_again(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """Who brings it back by hand is not contradicted at once."""
        monitor = HealthMonitor(store, topology_of(health={"failure_threshold": 2}), nodes)
        answers.say = DOWN
        await monitor.run(TOKEN)
        await monitor.run(TOKEN)
        await order(store, DOMAIN, kind="provider", name=PROVIDER, action="activate")
        await monitor.run(TOKEN)
        overridden = await provider_state(store)
        await monitor.run(TOKEN)

        assert overridden.status == "active"
        assert (await provider_state(store)).status == "standby"

    async def test_a_leader_that_slept_changes_nothing(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """Its probes are not counted."""
        answers.say = DOWN
        monitor = HealthMonitor(store, topology_of(), nodes)
        await monitor.run(TOKEN + 1)

        with pytest.raises(FencedOffError):
            await monitor.run(TOKEN)
        assert (await read_health(store, DOMAIN)).providers[PROVIDER].fails == 1


class TestOperators:
    async def test_they_see_how_well_providers_and_models_are(
        self, store: Store, nodes: Nodes, answers: Answers
    ) -> None:
        """In the views of every node, null where nothing watches."""
        answers.say = DOWN
        async with open_office(store, topology_of()) as office:
            before = (await office.view("providers"))["providers"][0]
            await HealthMonitor(store, topology_of(), nodes).run(TOKEN)
            after = (await office.view("providers"))["providers"][0]
            model = (await office.view("models"))["models"][0]

        assert (before["health"], before["availability"], before["probed"]) == (None, None, None)
        assert (after["health"], after["availability"]) == ("degraded", 0.7)
        assert after["probed"] > 0
        assert model["availability"] == 1.0

    async def test_a_node_lists_a_providers_models(self, store: Store) -> None:
        """Behind the admin token; what is wrong with the provider is said in our terms."""
        failing = False

        async def list_models(provider: str) -> list[ListedModel]:
            if failing:
                raise ProviderUnavailableError(f"{provider} is down")
            return [ListedModel(id="small", context_window=5)]

        async with open_office(store, topology_of()) as office:
            parts = replace(office.parts, list_models=list_models)
            office.app = build_application(
                {}, routes=ops_routes(parts, Doorkeeper([SecretStr("admin")], is_open=False))
            )
            template = "/ops/providers/{name}/models"
            good = await office.ask("providers/alpha/models")
            unknown = await office.ask("providers/nobody/models")
            stranger = await ask(office.app, "GET", "/ops/providers/alpha/models")
            failing = True
            bad = await office.ask("providers/alpha/models")
            for heard in (good, unknown, bad, stranger):
                await office.check(template, heard)

        assert [heard.status for heard in (good, unknown, bad, stranger)] == [200, 404, 502, 401]
        assert (
            good.json
            == ListingView(provider="alpha", models=[ListedModel(id="small", context_window=5)]).model_dump()
        )
        assert bad.json["error"]["code"] == "provider_unavailable"
