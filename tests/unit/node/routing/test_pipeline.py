"""From a name to ranked targets, stage by stage, against a snapshot of the test's choice."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.surfaces import EMBEDDINGS
from node.routing.pipeline import Plan
from node.routing.ranking import reads_signals
from node.routing.strategies import Signal, build_strategy
from node.signals import UNKNOWN
from shared_state.errors import BudgetExceededError, ModelNotFoundError, RequestError
from shared_state.ledger import Code, Verdict
from shared_state.limits import calendar_periods
from shared_state.state import EntityState
from shared_state.topology import Topology
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import ScriptedTransport

ROUND_ROBIN = {"strategy": "round-robin"}
STICKY = "stick-until-failure"


def house(topology: Topology, *draws: float) -> House:
    return House(topology, ScriptedTransport(), draw=draws or (0.0,))


def standby(reason: str = "error_threshold", *, in_ms: int = 60_000, **fields: Any) -> EntityState:
    """Out of service until so many milliseconds from now, then due for its trial."""
    values: dict[str, Any] = {"mode": "trial", "until_ms": NOW_MS + in_ms, **fields}
    return EntityState(status="standby", reason=reason, **values)


def names(plan: Plan) -> list[str]:
    return [target.model.id for target in plan.targets]


async def plan_of(place: House, **fields: Any) -> Plan:
    return await place.pipeline.plan(chat(**fields))


async def test_a_pool_offers_its_members_in_order() -> None:
    """Nothing on standby, nobody preferred: the pool's own order."""
    place = house(mesh("a.m", "b.m", "c.m"))
    plan = await plan_of(place)

    assert names(plan) == ["a.m", "b.m", "c.m"]
    assert {target.pool.id for target in plan.targets} == {"chat"}
    assert plan.skipped == {}


async def test_an_unknown_name_is_not_found() -> None:
    """404, and the message names what is near."""
    with pytest.raises(ModelNotFoundError, match="chat"):
        await plan_of(house(mesh("a.m")), model="chatt")


# -- which models fit


async def test_only_models_that_serve_the_api_are_offered() -> None:
    """A pool may mix; a chat call never reaches an embeddings model."""
    place = house(mesh("a.m", "b.m", differing={"b.m": {"capabilities": ["text-embeddings"]}}))

    assert names(await plan_of(place)) == ["a.m"]
    embeddings = await place.pipeline.plan(chat(surface=EMBEDDINGS, input="x"))
    assert names(embeddings) == ["b.m"]


async def test_a_name_that_no_model_serves_in_this_api_is_not_found() -> None:
    """The pool exists, but not for this call."""
    place = house(mesh("a.m"))

    with pytest.raises(ModelNotFoundError, match="embeddings API"):
        await place.pipeline.plan(chat(surface=EMBEDDINGS, input="x"))


async def test_models_that_cannot_deliver_so_are_dropped() -> None:
    """Streaming and whole answers are asked of those that give them."""
    differing = {"a.m": {"delivery": {"streaming": False}}, "b.m": {"delivery": {"synchronous": False}}}
    place = house(mesh("a.m", "b.m", differing=differing))

    assert names(await plan_of(place)) == ["a.m"]
    assert names(await plan_of(place, stream=True)) == ["b.m"]


@pytest.mark.parametrize(("stream", "mode"), [(True, "streaming"), (False, "synchronous")])
async def test_a_mode_that_nobody_delivers_is_the_callers_mistake(stream: bool, mode: str) -> None:
    """400, with the field that asks for it."""
    place = house(mesh("a.m", model={"delivery": {mode: False}}))

    with pytest.raises(RequestError) as caught:
        await plan_of(place, stream=stream)
    assert caught.value.code == "unsupported_delivery"
    assert caught.value.param == "stream"


# -- states


async def test_a_model_on_standby_is_skipped_with_its_reason() -> None:
    """The others serve; the earliest return is known."""
    place = house(mesh("a.m", "b.m", "c.m"))
    place.view.models = {
        "a.m": standby("error_threshold", in_ms=5000),
        "c.m": standby("rate_limited", in_ms=2000),
    }
    plan = await plan_of(place)

    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "error_threshold", "c.m": "rate_limited"}
    assert plan.opens_ms == NOW_MS + 2000
    assert not plan.only_rate_limits


async def test_resting_because_of_rate_limits_alone_is_told() -> None:
    """It makes the difference between 429 and 503."""
    place = house(mesh("a.m", "b.m"))
    place.view.models = {name: standby("rate_limited", mode="time") for name in ("a.m", "b.m")}
    plan = await plan_of(place)

    assert names(plan) == []
    assert plan.only_rate_limits


@pytest.mark.parametrize(
    ("reason", "mode", "is_limit"),
    [
        ("request_limit", "time", True),
        ("budget_exceeded", "time", True),
        ("request_limit", "manual", False),
        ("maintenance_window", "time", False),
    ],
)
async def test_a_cap_is_a_limit_as_long_as_it_ends_by_itself(reason: str, mode: str, is_limit: bool) -> None:
    """Whoever comes back then is served; one that waits for an operator is a 503."""
    place = house(mesh("a.m"))
    place.view.models = {"a.m": standby(reason, mode=mode)}

    assert (await plan_of(place)).only_rate_limits is is_limit


async def test_a_maintenance_window_is_obeyed_without_anybody_saying_so() -> None:
    """The clock alone; also when the only other member is the one that rests."""
    always = {"deactivation": {"maintenance_window": {"cron": "* * * * *", "duration": "1h"}}}
    topology = mesh(
        "a.m", "b.m", pools={"chat": {"models": ["a.m", "b.m"]}, "night": {"models": ["a.m"], **always}}
    )
    plan = await plan_of(house(topology))

    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "maintenance_window"}
    assert NOW_MS + 3_500_000 < plan.opens_ms <= NOW_MS + 3_600_000


async def test_spent_money_that_ends_the_call_is_heard_from_the_model() -> None:
    """With ``on_budget_exceeded: error`` nobody else is tried: the refusal is the answer."""
    rules = {"on_budget_exceeded": "error", "deactivation": {"budget_limit": 1, "quota_window": "daily"}}
    place = house(mesh("a.m", "b.m", pool=rules, model={"pricing": {"input": 1}}))
    place.view.models = {"a.m": standby("budget_exceeded", mode="time")}
    place.ledger.verdicts = {"a.m": [Verdict(Code.STANDBY, NOW_MS + 9000, "budget_exceeded")]}
    with pytest.raises(BudgetExceededError) as told:
        await place.serve()

    assert (told.value.retry_after_s, told.value.limit_type) == (9.0, "daily")
    assert [ask.model for ask in place.ledger.asks] == ["a.m"]


async def test_spent_money_of_an_account_is_heard_as_the_window_that_ends_with_its_standby() -> None:
    """The account's month is over when the verdict says so, whatever the model's day does."""
    rules = {"on_budget_exceeded": "error"}
    place = house(
        mesh(
            "a.m",
            pool=rules,
            model={"pricing": {"input": 1}, "budget": {"daily_limit": 1}},
            provider={"budget": {"monthly_limit": 5}},
        )
    )
    place.view.providers = {"a": standby("budget_exceeded", mode="time")}
    ends_ms = calendar_periods("M", "UTC", NOW_MS)[1]
    place.ledger.verdicts = {"a.m": [Verdict(Code.STANDBY, ends_ms, "budget_exceeded")]}
    with pytest.raises(BudgetExceededError) as told:
        await place.serve()

    assert told.value.limit_type == "monthly"


async def test_a_provider_on_standby_takes_its_models_out() -> None:
    """The account's reason is the one that is told."""
    place = house(mesh("a.m", "a.n", "b.m"))
    place.view.providers = {"a": standby("auth", in_ms=9000)}
    plan = await plan_of(place)

    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "auth", "a.n": "auth"}
    assert plan.opens_ms == NOW_MS + 9000


async def test_an_order_by_hand_stands_until_it_is_taken_back() -> None:
    """No time brings it back, and none is promised."""
    place = house(mesh("a.m", "b.m"))
    place.view.models = {"a.m": EntityState(status="standby", reason="manual", mode="manual")}
    plan = await plan_of(place)

    assert names(plan) == ["b.m"]
    assert plan.opens_ms == 0


async def test_a_model_whose_time_is_over_serves_without_being_told() -> None:
    """A rate limit ends by the clock, also if no scheduler lives."""
    place = house(mesh("a.m", "b.m"))
    place.view.models = {"a.m": standby("rate_limited", mode="time", in_ms=-1)}

    assert names(await plan_of(place)) == ["a.m", "b.m"]


async def test_a_model_that_is_due_is_tried_first() -> None:
    """One request in the cluster gets the trial; it must be asked before the healthy ones."""
    place = house(mesh("a.m", "b.m", "c.m"))
    place.view.models = {"c.m": standby(in_ms=-1)}
    plan = await plan_of(place)

    assert names(plan) == ["c.m", "a.m", "b.m"]
    assert plan.skipped == {}


async def test_a_provider_that_is_due_has_its_models_tried_first() -> None:
    """The account's trial is a request to one of its models."""
    place = house(mesh("a.m", "b.m"))
    place.view.providers = {"b": standby("outage", in_ms=-1)}

    assert names(await plan_of(place)) == ["b.m", "a.m"]


async def test_a_trial_that_is_under_way_is_not_asked_for() -> None:
    """The model opens when that trial's lease ends."""
    place = house(mesh("a.m", "b.m"))
    place.view.models = {"a.m": standby(in_ms=-1, phase="trial", trial_until_ms=NOW_MS + 700)}
    plan = await plan_of(place)

    assert names(plan) == ["b.m"]
    assert plan.opens_ms == NOW_MS + 700


# -- recovery


@pytest.mark.parametrize(
    ("step", "draw", "order"),
    [
        (0, 0.09, ["a.m", "b.m"]),
        (0, 0.1, ["b.m", "a.m"]),
        (1, 0.29, ["a.m", "b.m"]),
        (1, 0.3, ["b.m", "a.m"]),
        (2, 0.999, ["a.m", "b.m"]),
        (7, 0.999, ["a.m", "b.m"]),
    ],
)
async def test_a_recovering_model_gets_its_share(step: int, draw: float, order: list[str]) -> None:
    """Of all draws the ramp's share goes to it; for the rest it is the last resort."""
    place = house(mesh("a.m", "b.m"), draw)
    place.view.models = {"a.m": EntityState(phase="ramp", step=step)}

    assert names(await plan_of(place)) == order


async def test_the_only_model_serves_whatever_its_share() -> None:
    """A ramp never refuses."""
    place = house(mesh("a.m"), 0.99)
    place.view.models = {"a.m": EntityState(phase="ramp")}

    assert names(await plan_of(place)) == ["a.m"]


# -- order


async def test_round_robin_takes_turns() -> None:
    """Each plan begins one further; a single member costs no turn."""
    place = house(mesh("a.m", "b.m", "c.m", pool=ROUND_ROBIN))

    firsts = [names(await plan_of(place))[0] for _ in range(6)]
    assert firsts == ["a.m", "b.m", "c.m"] * 2

    alone = house(mesh("a.m", pool=ROUND_ROBIN))
    await plan_of(alone)
    assert alone.cursors.turns == {}


async def test_a_preferred_provider_comes_first() -> None:
    """The others follow in the strategy's order."""
    place = house(mesh("a.m", "b.m", "c.m", "b.n"))

    preferred = await place.pipeline.plan(chat(provider="b"))
    assert names(preferred) == ["b.m", "b.n", "a.m", "c.m"]
    unknown = await place.pipeline.plan(chat(provider="nobody"))
    assert names(unknown) == ["a.m", "b.m", "c.m", "b.n"]


async def test_pools_follow_each_other_and_each_model_stands_once() -> None:
    """A capability that two pools serve: the more specific pool first, its models not again."""
    pools = {
        "wide": {"capability": "text-generation"},
        "narrow": {"capability": "chat-completion", "models": ["c.m", "b.m"], "providers": ["b"]},
    }
    place = house(mesh("a.m", "b.m", "c.m", pools=pools))
    plan = await plan_of(place, model="chat-completion")

    assert sorted(names(plan)) == ["a.m", "b.m", "c.m"]
    assert [target.pool.id for target in plan.targets] == ["narrow", "narrow", "wide"]


async def test_an_exact_model_is_the_only_candidate() -> None:
    """Its pool gives the rules, not the alternatives."""
    place = house(mesh("a.m", "b.m"))
    plan = await plan_of(place, model="b.m")

    assert names(plan) == ["b.m"]
    assert plan.targets[0].pool.id == "chat"


# -- the pointer of a sticky pool


async def test_the_first_call_sets_the_pointer() -> None:
    """From then on it stays."""
    place = house(mesh("a.m", "b.m", pool={"strategy": STICKY}))

    await plan_of(place)
    await plan_of(place)

    assert place.cursors.moves == [("chat", "a.m")]


async def test_the_pointer_moves_on_when_its_model_goes() -> None:
    """And does not come back when that model returns."""
    place = house(mesh("a.m", "b.m", "c.m", pool={"strategy": STICKY}))
    place.view.current["chat"] = "a.m"
    place.view.models = {"a.m": standby()}

    assert names(await plan_of(place)) == ["b.m", "c.m"]
    place.view.models = {}
    assert names(await plan_of(place)) == ["b.m", "c.m", "a.m"]

    assert place.cursors.moves == [("chat", "b.m")]


async def test_the_pointer_moves_on_when_its_provider_goes() -> None:
    """An account's outage is as good as the model's."""
    place = house(mesh("a.m", "b.m", pool={"strategy": STICKY}))
    place.view.current["chat"] = "a.m"
    place.view.providers = {"a": standby("outage")}
    await plan_of(place)

    assert place.cursors.moves == [("chat", "b.m")]


async def test_the_pointer_survives_a_draw() -> None:
    """A recovering model that is left out of one draw keeps the pool."""
    place = house(mesh("a.m", "b.m", pool={"strategy": STICKY}), 0.9)
    place.view.current["chat"] = "a.m"
    place.view.models = {"a.m": EntityState(phase="ramp")}

    assert names(await plan_of(place)) == ["b.m", "a.m"]
    assert place.cursors.moves == []


async def test_the_pointer_leaves_a_model_that_is_no_member_any_more() -> None:
    """After a change of configuration."""
    place = house(mesh("a.m", "b.m", pool={"strategy": STICKY}))
    place.view.current["chat"] = "gone.m"
    await plan_of(place)

    assert place.cursors.moves == [("chat", "a.m")]


async def test_the_pointer_stays_when_nobody_is_left() -> None:
    """There is nothing to point at."""
    place = house(mesh("a.m", pool={"strategy": STICKY}))
    place.view.current["chat"] = "a.m"
    place.view.models = {"a.m": standby()}

    assert names(await plan_of(place)) == []
    assert place.cursors.moves == []


# -- dynamic pools


async def test_a_score_ranks_by_the_state_of_the_moment() -> None:
    """Higher first, ties in pool order; a model without a score takes no part."""
    score = "0 if id == 'c.m' else 5 if recovering else 10"
    place = house(mesh("a.m", "b.m", "c.m", "d.m", pool={"score": score}), 0.0)
    place.view.models = {"a.m": EntityState(phase="ramp", step=2)}
    plan = await plan_of(place)

    assert names(plan) == ["b.m", "d.m", "a.m"]
    assert plan.skipped == {"c.m": "score"}
    assert place.cursors.moves == []


async def test_a_score_ranks_by_how_models_do_now() -> None:
    """Quick ones first; one that nobody has measured of late comes before all, so that somebody does."""
    place = house(mesh("a.m", "b.m", "c.m", "d.m", pool={"score": "1 / latency_ms"}))
    place.signals.signals = {
        "a.m": Signal(latency_ms=900.0, age_s=1.0),
        "b.m": Signal(latency_ms=100.0, age_s=599.0),
        "c.m": Signal(latency_ms=2000.0, age_s=601.0),
        "d.m": Signal(latency_ms=500.0, age_s=5.0),
    }

    assert names(await plan_of(place)) == ["c.m", "b.m", "d.m", "a.m"]


async def test_what_is_unknown_to_a_score_has_a_value() -> None:
    """A number for each, so that nobody is left out for want of one."""
    facts = "latency_ms == 1 and first_token_ms == 1 and in_flight == 0 and headroom == 1"
    place = house(mesh("a.m", pool={"score": f"1 if {facts} else 0"}))

    assert names(await plan_of(place)) == ["a.m"]


async def test_a_score_spreads_by_load_and_room() -> None:
    """Over all nodes."""
    place = house(mesh("a.m", "b.m", "c.m", pool={"score": "headroom / (1 + in_flight)"}))
    place.signals.signals = {
        "a.m": Signal(in_flight=3.0),
        "b.m": Signal(in_flight=1.0, headroom=0.8),
        "c.m": Signal(headroom=0.0),
    }
    plan = await plan_of(place)

    assert names(plan) == ["b.m", "a.m"]
    assert plan.skipped == {"c.m": "score"}


@pytest.mark.parametrize(
    ("pool", "asked"),
    [
        ({}, []),
        ({"score": "1 if recovering else 2"}, []),
        ({"score": "1 / latency_ms"}, ["a.m", "b.m"]),
    ],
)
async def test_only_a_score_that_names_signals_asks_for_them(pool: dict[str, Any], asked: list[str]) -> None:
    """Each model once a plan, and neither Redis is read for others."""
    place = house(mesh("a.m", "b.m", pool=pool))
    heard: list[str] = []
    place.signals.of = lambda model: heard.append(model) or UNKNOWN  # type: ignore[method-assign, func-returns-value]
    await plan_of(place)
    spec = place.topology.pools["chat"]

    assert heard == asked
    assert reads_signals(spec, build_strategy(spec.config)) is bool(asked)


async def test_a_model_that_is_due_for_its_trial_needs_no_score() -> None:
    """Else a score that asks for active models would never let one come back; until then its own reason is told."""
    place = house(mesh("a.m", "b.m", pool={"score": "1 if active else 0"}))
    place.view.models = {"a.m": standby(in_ms=-1)}
    assert names(await plan_of(place)) == ["a.m", "b.m"]

    place.view.models = {"a.m": standby(in_ms=5000)}
    plan = await plan_of(place)
    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "error_threshold"}


async def test_a_pool_whose_scores_leave_nobody_has_no_active_model() -> None:
    """503, and no promise that waiting for a rate limit helps."""
    place = house(mesh("a.m", pool={"score": "0 if recovering else 1"}))
    place.view.models = {"a.m": EntityState(phase="ramp", step=2)}
    plan = await plan_of(place)

    assert names(plan) == []
    assert not plan.only_rate_limits
