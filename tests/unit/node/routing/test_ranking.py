"""The selection stage: what strategies are told, and what their rankings move."""

from __future__ import annotations

from typing import Any

import pytest

from node.routing.pipeline import Plan
from node.routing.verdicts import Refusals
from node.signals import Signal
from shared_state.errors import NoActiveModelError, SessionModelUnavailableError
from shared_state.state import EntityState
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import ScriptedTransport

STICKY = {"strategy": "session-stickiness", "model_priority": ["b.m"]}
STRICT = {**STICKY, "affinity_mode": "strict"}
RAMP = EntityState(phase="ramp")


def house(*, draw: float = 0.0, differing: dict[str, Any] | None = None, **pool: Any) -> House:
    topology = mesh("a.m", "b.m", "c.m", pool=pool, differing=differing)
    return House(topology, ScriptedTransport(), draw=(draw,))


def standby(*, in_ms: int = 60_000) -> EntityState:
    return EntityState(status="standby", reason="outage", mode="trial", until_ms=NOW_MS + in_ms)


def ids(plan: Plan) -> str:
    return "".join(target.model.id[0] for target in plan.targets)


async def order(place: House, **fields: Any) -> str:
    return ids(await place.pipeline.plan(chat(**fields)))


# -- sessions


async def test_a_new_session_gets_the_model_that_is_first_now() -> None:
    """And keeps it, without its being moved."""
    place = house(**STICKY)

    assert [await order(place, session="s") for _ in range(3)] == ["bac"] * 3
    assert place.sessions.held == {("chat", "s"): "b.m"}
    assert place.sessions.moves == []


async def test_a_session_stays_where_it_is_though_another_is_preferred() -> None:
    """The map decides, not the order."""
    place = house(**STICKY)
    place.sessions.held["chat", "s"] = "c.m"

    assert await order(place, session="s") == "cba"
    assert await order(place) == "bac"


async def test_a_session_moves_when_its_model_goes_on_standby() -> None:
    """And does not come back with it."""
    place = house(**STICKY)
    place.sessions.held["chat", "s"] = "c.m"
    place.view.models = {"c.m": standby()}
    moved = await order(place, session="s")
    place.view.models = {}

    assert moved == "ba"
    assert place.sessions.moves == [("s", "c.m", "b.m")]
    assert await order(place, session="s") == "bac"


async def test_a_session_does_not_move_for_a_request_that_its_model_cannot_serve() -> None:
    """The model is well; the next request may be for it again."""
    place = house(differing={"c.m": {"delivery": {"streaming": False}}}, **STICKY)
    place.sessions.held["chat", "s"] = "c.m"

    assert await order(place, session="s", stream=True) == "ba"
    assert place.sessions.moves == []


async def test_a_session_keeps_a_model_whose_share_is_used_up() -> None:
    """The ramp holds back others, not those who belong there."""
    place = house(draw=0.99, **STICKY)
    place.view.models = {"c.m": RAMP}
    place.sessions.held["chat", "s"] = "c.m"

    assert await order(place, session="s") == "cba"
    assert await order(place, session="other") == "bac"


async def test_a_strict_session_has_one_target() -> None:
    """Neither a fallback, nor a trial or a recovering model of others."""
    place = house(draw=0.99, **STRICT)
    place.view.models = {"a.m": standby(in_ms=-1), "b.m": RAMP}
    place.sessions.held["chat", "s"] = "c.m"

    assert await order(place, session="s") == "c"
    assert await order(place) == "acb"


async def test_a_strict_session_whose_model_is_on_standby_gets_an_error() -> None:
    """Until its trial is due: then it may be the one to try."""
    place = house(**STRICT)
    place.sessions.held["chat", "s"] = "c.m"
    place.view.models = {"c.m": standby()}
    with pytest.raises(SessionModelUnavailableError, match=r"c\.m"):
        await order(place, session="s")
    place.view.models = {"c.m": standby(in_ms=-1)}

    assert await order(place, session="s") == "c"
    assert place.sessions.moves == []


async def test_a_strict_session_begins_anew_when_its_model_is_no_member_any_more() -> None:
    """After a change of configuration."""
    place = house(**STRICT)
    place.sessions.held["chat", "s"] = "gone.m"

    assert await order(place, session="s") == "bac"
    assert place.sessions.moves == [("s", "gone.m", "b.m")]


async def test_cost_first_takes_the_session_along() -> None:
    """What was cached is left behind when another model is cheaper all the same."""
    prices = {"a.m": {"input": 9.0}, "b.m": {"input": 1.0}, "c.m": {"input": 2.0, "cached_input": 0.1}}
    place = house(
        strategy="cost-first", differing={name: {"pricing": price} for name, price in prices.items()}
    )
    place.sessions.held["chat", "s"] = "c.m"
    said = [{"role": "user", "content": "word " * 2000}] * 3
    long = await order(place, session="s", messages=[*said, {"role": "user", "content": "and?"}])
    moves = list(place.sessions.moves)
    short = await order(place, session="s")

    assert (long, moves) == ("cba", [])
    assert short == "bca"
    assert place.sessions.moves == [("s", "c.m", "b.m")]


# -- an exact model


async def test_a_caller_who_names_a_model_asks_no_strategy() -> None:
    """No turn is used up, no pointer and no session moves."""
    place = house()
    place.view.current["chat"] = "a.m"
    place.view.models = {"a.m": standby()}

    assert await order(place, model="c.m", session="s") == "c"
    assert (place.cursors.moves, place.sessions.held) == ([], {})


# -- limits


def near_limits(place: House, **shares: float) -> None:
    place.signals.signals = {f"{name}.m": Signal(headroom=share) for name, share in shares.items()}


async def test_a_pools_rate_limit_holds_for_every_strategy() -> None:
    """Models near a limit come last; without the section nobody looks at limits before admission does."""
    for strategy in ("stick-until-failure", "round-robin", "rate-limit-aware"):
        careful, careless = house(strategy=strategy, rate_limit={"threshold": 0.5}), house(strategy=strategy)
        near_limits(careful, a=0.4, b=0.9, c=0.45)
        near_limits(careless, a=0.4, b=0.9, c=0.45)

        assert await order(careful) == "bca"
        assert strategy == "rate-limit-aware" or await order(careless) == "abc"


async def test_the_pointer_does_not_move_for_a_limit() -> None:
    """Room comes back by itself."""
    place = house(rate_limit={})
    place.view.current["chat"] = "a.m"
    near_limits(place, a=0.0, b=1.0, c=1.0)

    assert await order(place) == "bca"
    assert place.cursors.moves == []


# -- what a strategy leaves out


async def test_what_a_strategy_leaves_out_is_not_tried_and_not_called_a_limit() -> None:
    """The plan says why."""
    place = house(strategy="priority-selection", model_priority=["b.m"], fallback_strategy="error")
    place.view.models = {"b.m": standby()}
    plan = await place.pipeline.plan(chat())

    assert plan.targets == []
    assert plan.skipped == {"a.m": "strategy", "b.m": "outage", "c.m": "strategy"}
    assert isinstance(Refusals().error(plan, NOW_MS), NoActiveModelError)


async def test_the_pointer_of_a_fallback_strategy_ignores_the_list() -> None:
    """It marks where the rest begins, however often the listed model comes and goes."""
    place = house(
        strategy="priority-selection", model_priority=["b.m"], fallback_strategy="stick-until-failure"
    )
    place.view.current["chat"] = "c.m"

    assert await order(place) == "bca"
    assert place.cursors.moves == []


async def test_a_strategy_that_wants_nobody_is_not_called_a_limit_either() -> None:
    """Nothing is on standby, and nothing is tried."""
    place = house(strategy="priority-selection", fallback_strategy="error")
    plan = await place.pipeline.plan(chat())

    assert plan.targets == []
    assert isinstance(Refusals().error(plan, NOW_MS), NoActiveModelError)


async def test_a_score_is_kept_and_so_are_limits() -> None:
    """A dynamic pool needs no strategy; its rate limit holds all the same."""
    sizes = {
        f"{name}.m": {"constraints": {"context_window": size}}
        for name, size in (("a", 20_000), ("b", 10_000), ("c", 30_000))
    }
    place = house(
        score="constraints.context_window",
        rate_limit={},
        differing=sizes,
    )
    plain = await order(place)
    near_limits(place, a=1.0, b=1.0, c=0.1)

    assert plain == "cab"
    assert await order(place) == "abc"
