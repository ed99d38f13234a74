"""A decision is recorded as it came about, and the record alone leads to the same pick."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
import pytest

from node.api.surfaces import EMBEDDINGS, RESPONSES, SPEECH
from node.call import Call, Caps, Trail
from node.observe.record import record_of
from node.ops.replay import Replayer
from node.routing.strategies import Signal
from shared_state.client_keys import ClientKey
from shared_state.errors import ModelMeshError, ProviderUnavailableError
from shared_state.ledger import Code, Verdict
from shared_state.shapes.decision import DecisionView, ReplayView
from shared_state.state import EntityState
from shared_state.topology import Topology
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import ScriptedTransport, whole

SECRET_TEXT = "the cat is called Xanthippe"
MODELS = ("alpha.m", "beta.m", "gamma.m", "delta.m")
STANDBY = EntityState(status="standby", reason="outage", mode="time", until_ms=NOW_MS + 5000)
MANUAL = EntityState(status="standby", reason="manual", mode="manual")
DUE = EntityState(status="standby", reason="error_threshold", mode="trial", until_ms=NOW_MS - 1)
RAMP = EntityState(phase="ramp", step=0)
STATES = [STANDBY, MANUAL, DUE, RAMP, RAMP, EntityState(fails=2)]
STRATEGIES = {
    "stick-until-failure": {},
    "priority-selection": {"model_priority": ["gamma.m", "alpha.m"]},
    "round-robin": {},
    "cost-first": {},
    "latency-first": {},
    "session-stickiness": {},
    "rate-limit-aware": {},
    "load-balanced": {},
    "least-busy": {},
    "power-of-two": {},
    "canary": {"weights": {"delta.m": 0.2}},
}


def scene(pool: dict[str, Any], **more: Any) -> House:
    scripts = {name.partition(".")[0]: whole() for name in MODELS}
    topology = mesh(*MODELS, pool={"retry": {"scope": "any"}, **pool}, **more)
    return House(topology, ScriptedTransport(**scripts), draw=[random.random() for _ in range(7)])


async def serve(house: House, call: Call) -> DecisionView:
    """Serves a call; its record, as it would lie in Redis."""
    house.trail, outcome, status = Trail(), "ok", 200
    try:
        await house.serve(call)
    except ModelMeshError as error:
        outcome, status = error.code or "", error.http_status
    record = record_of(
        call,
        house.trail,
        node="n1",
        version=house.topology.version,
        status=status,
        outcome=outcome,
        ended=asyncio.get_running_loop().time(),
    )
    text = orjson.dumps(record)
    assert SECRET_TEXT.encode() not in text
    return DecisionView.model_validate_json(text)


async def replay(house: House, decision: DecisionView, topology: Topology | None = None) -> ReplayView:
    replayer = Replayer(topology or house.topology, house.pipeline.ranker.strategies)
    return await replayer.replay(decision)


def muddle(house: House, chance: random.Random) -> None:
    """Some models are down, come back, are busy or at a limit."""
    for model in chance.sample(MODELS, 2):
        house.view.models[model] = chance.choice(STATES)
    for model in MODELS:
        house.signals.signals[model] = Signal(
            latency_ms=chance.choice([None, chance.uniform(10, 900)]),
            first_token_ms=chance.choice([None, chance.uniform(10, 90)]),
            peak_ms=chance.choice([None, chance.uniform(10, 900)]),
            age_s=chance.choice([None, chance.uniform(0, 60)]),
            in_flight=chance.randint(0, 5),
            headroom=chance.choice([None, chance.random()]),
            requests_left=chance.choice([None, chance.randint(0, 50)]),
        )
        if chance.random() < 0.3:
            house.ledger.verdicts[model] = [Verdict(Code.AT_LIMIT, NOW_MS + 1000, "rpm")]


@pytest.mark.parametrize("name", STRATEGIES)
async def test_random_requests_replay_to_the_same_pick(name: str) -> None:
    """For every strategy, whatever the states, signals, turns, draws and sessions were."""
    chance = random.Random(f"explain {name}")
    house = scene(
        {"strategy": name, "recovery": {"ramp": [0.5, 1.0]}, **STRATEGIES[name]},
        model={"pricing": {"input": 1}},
    )
    for number in range(30):
        house.view.models.clear()
        house.ledger.verdicts.clear()
        muddle(house, chance)
        session = chance.choice(["", f"talk-{number % 4}"])
        call = chat(session=session, messages=[{"role": "user", "content": SECRET_TEXT}])
        decision = await serve(house, call)

        again = await replay(house, decision)

        assert again.same, (again.missing, again.differences, decision)
        assert again.recorded == again.replayed == decision.picked


@pytest.mark.parametrize(
    "pool",
    [
        {"score": "headroom / (latency_ms * (1 + in_flight))"},
        {"score": "1 / first_token_ms if not recovering and in_flight < 4 else 0", "rate_limit": {}},
    ],
)
async def test_scores_by_signals_replay_to_the_same_order(pool: dict[str, Any]) -> None:
    """The record has what the score was told, though the signals are others whenever somebody looks."""
    chance = random.Random("scores")
    house = scene({"recovery": {"ramp": [0.5, 1.0]}, **pool})

    def look(model: str) -> Signal:
        return Signal(
            latency_ms=chance.uniform(10, 900),
            first_token_ms=chance.choice([None, chance.uniform(10, 90)]),
            age_s=chance.choice([None, 5.0, 700.0]),
            in_flight=chance.randint(0, 5),
            headroom=chance.choice([None, chance.random()]),
        )

    house.signals.of = look  # type: ignore[method-assign]
    for _ in range(30):
        house.view.models.clear()
        house.ledger.verdicts.clear()
        for model in chance.sample(MODELS, 2):
            house.view.models[model] = chance.choice(STATES)
        decision = await serve(house, chat())

        again = await replay(house, decision)

        assert again.same, (again.missing, again.differences, decision)
        assert decision.plans[0].signals


async def test_a_record_without_the_signals_of_a_score_says_so() -> None:
    """Such as one of a time before the score asked for them."""
    house = scene({"score": "1 / latency_ms"})
    decision = await serve(house, chat())
    lean = decision.model_copy(update={"plans": [decision.plans[0].model_copy(update={"signals": {}})]})

    assert (await replay(house, lean)).missing == ["the signals of alpha.m (asked for 'chat')"]


async def test_the_record_tells_who_was_left_out_and_why() -> None:
    """Stage by stage, with the refusal of admission and the failure behind it."""
    house = scene(
        {"strategy": "priority-selection"}, differing={"alpha.m": {"features": {"tool_calling": False}}}
    )
    house.view.models["beta.m"] = STANDBY
    house.ledger.verdicts["gamma.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")]
    tools = [{"type": "function", "function": {"name": "look"}}]

    decision = await serve(house, chat(tools=tools))

    (plan,) = decision.plans
    skipped = {(stage.name, skip.model): skip.reason for stage in plan.stages for skip in stage.skipped}
    assert skipped == {
        ("NeedsFilter", "alpha.m"): "tool_calling",
        ("StateFilter", "beta.m"): "outage",
    }
    assert [target.model for target in plan.targets] == ["gamma.m", "delta.m"]
    assert [(step.model, step.verdict, step.window, step.outcome) for step in decision.steps] == [
        ("gamma.m", "at_limit", "rpm", None),
        ("delta.m", "admitted", "", "success"),
    ]
    assert decision.steps[0].at == (NOW_MS + 9000) / 1000
    assert (decision.picked, decision.served) == ("delta.m", "delta.m")


async def test_a_failover_is_recorded_with_its_error_but_without_its_words() -> None:
    """What a provider says may quote the request."""
    topology = mesh("alpha.m", "beta.m", pool={"retry": {"scope": "any"}})
    error = ProviderUnavailableError(f"cannot handle: {SECRET_TEXT}", status=503)
    house = House(topology, ScriptedTransport(alpha=[error], beta=whole()))

    decision = await serve(house, chat())

    assert [(s.model, s.outcome, s.error, s.status) for s in decision.steps] == [
        ("alpha.m", "failure", "provider_unavailable", 503),
        ("beta.m", "success", None, None),
    ]
    assert (decision.picked, decision.served) == ("alpha.m", "beta.m")
    assert (await replay(house, decision)).same


async def test_a_text_too_long_is_replayed_without_the_text() -> None:
    """The words were counted once; the fallback has a plan of its own."""
    topology = mesh(
        "alpha.m",
        "beta.m",
        differing={"alpha.m": {"constraints": {"context_window": 50}}},
        pool={"models": ["alpha.m"], "fallbacks": {"context_window": ["beta.m"]}},
    )
    house = House(topology, ScriptedTransport(alpha=whole(), beta=whole()))
    call = chat(messages=[{"role": "user", "content": f"{SECRET_TEXT} " * 200}])

    decision = await serve(house, call)

    assert [plan.error for plan in decision.plans] == ["context_length_exceeded", None]
    assert decision.plans[0].words
    assert decision.picked == "beta.m"
    assert (await replay(house, decision)).same


async def test_caps_and_keys_are_replayed() -> None:
    """The price was reckoned from the text; what the key may use is in the record, the key is not."""
    house = scene({}, model={"pricing": {"input": 1.0, "output": 2.0}})
    call = chat(max_tokens=10, model="chat-completion")
    call.caps = Caps(max_price_nano=10**9, providers=frozenset({"beta", "gamma"}), regions=frozenset())
    call.key = ClientKey(id="k1", name="billing", created=1.0, models=("chat*",))

    decision = await serve(house, call)

    assert decision.caps is not None
    assert decision.picked == "beta.m"
    assert decision.plans[0].costs.keys() == {"beta.m", "gamma.m"}
    assert decision.key is not None and decision.key.id == "k1"
    assert (await replay(house, decision)).same


async def test_a_missing_input_is_named() -> None:
    """A record without its draws cannot be replayed, and the answer says which input is missing."""
    house = scene({"strategy": "power-of-two"})
    decision = await serve(house, chat())
    plan = decision.plans[0]
    ranking = plan.rankings[0].model_copy(update={"draw": None})
    lean = decision.model_copy(update={"plans": [plan.model_copy(update={"rankings": [ranking]})]})

    again = await replay(house, lean)

    assert not again.same
    assert again.missing == ["a draw for the ranking (asked for 'chat')"]


async def test_another_configuration_is_told_apart() -> None:
    """The replay says which version it ran on, and what came out differently."""
    house = scene({"strategy": "priority-selection"})
    decision = await serve(house, chat())
    other = scene({"strategy": "priority-selection", "model_priority": ["delta.m"]})

    again = await replay(other, decision)

    assert not again.same
    assert again.config_version != again.recorded_version
    assert {"ranking of chat", "targets"} <= {difference.what for difference in again.differences}


async def test_a_refused_request_is_recorded_too() -> None:
    """A name that nobody serves here has a plan that ends at a stage; one that means nothing has none."""
    house = scene({})
    refused = await serve(house, chat(surface=EMBEDDINGS, input="x"))
    unknown = await serve(house, chat(model="nonsense"))

    assert refused.plans[0].error == "model_not_found"
    assert [stage.name for stage in refused.plans[0].stages] == ["CapabilityResolver", "PoolSelection"]
    assert (await replay(house, refused)).same
    assert unknown.plans == []
    assert (await replay(house, unknown)).missing == ["the plan"]


async def test_other_ways_to_ask_for_a_stream_are_replayed() -> None:
    """A speaker that cannot stream is passed over by the record as by the call."""
    house = scene(
        {},
        model={"capabilities": ["text-to-speech"]},
        differing={"alpha.m": {"delivery": {"streaming": False}}},
    )
    decision = await serve(house, chat(surface=SPEECH, input="x", stream_format="sse"))
    again = await replay(house, decision)

    assert decision.picked == "beta.m"
    assert again.same


async def test_what_only_some_providers_have_an_api_for_is_replayed() -> None:
    """The field that keeps the others out is among the needs; its value is not."""
    accounts = {
        name.partition(".")[0]: {
            "connector": "openai-compatible.v1",
            "base_url": f"http://{name.partition('.')[0]}/v1",
            "responses": name == "gamma.m",
        }
        for name in MODELS
    }
    house = scene({}, providers=accounts)
    decision = await serve(house, chat(surface=RESPONSES, input="x", previous_response_id=SECRET_TEXT))
    again = await replay(house, decision)

    assert decision.picked == "gamma.m"
    assert decision.plans[0].needs.beyond == "previous_response_id"
    assert again.same
