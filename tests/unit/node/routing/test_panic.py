"""When a pool's members are away for their health: how many may be, and what happens when nobody well is left."""

from __future__ import annotations

from typing import Any

import pytest

from node.routing.pace import Pace
from node.routing.panic import Patient, Ward, let_in, take_stock
from node.routing.pipeline import Plan
from shared_state.config import DeactivationConfig
from shared_state.ledger import How, Outcome
from shared_state.rotation.maintenance import Calendars
from shared_state.state import EntityState
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import ScriptedTransport, whole

MODELS = ("a.m", "b.m", "c.m", "d.m")


class FakeCalendars(Calendars):
    """Models that rest by the clock."""

    def __init__(self, rests: set[str]) -> None:
        self._rests = rests

    def rest_of(self, model: str, state: EntityState, now_ms: int) -> EntityState | None:
        return EntityState("standby") if model in self._rests else None


def ward(well: int, *patients: int, due: int = 0, on_trial: tuple[int, ...] = ()) -> Ward:
    """A pool with so many well, and patients named by the moment at which they are due."""
    specs = mesh(*MODELS).models
    return Ward(
        well,
        due,
        [Patient(spec, at, 3, at in on_trial) for at, spec in zip(patients, specs.values(), strict=False)],
    )


def chosen(place: Ward, **rules: Any) -> list[str]:
    return [model.id for model in let_in(DeactivationConfig(**rules), place)]


@pytest.mark.parametrize(
    ("place", "rules", "expected"),
    [
        (ward(1, 9), {}, []),
        (ward(1, 9, 8, 7), {}, []),
        (ward(0, 9, 8), {}, ["b.m", "a.m"]),
        (ward(0, 9, due=1), {}, ["a.m"]),
        (ward(0, 9, 8), {"panic_threshold": None}, []),
        (ward(1, 9, 8, 7), {"panic_threshold": 0.2}, []),
        (ward(1, 9, 8, 7), {"panic_threshold": 0.25}, ["c.m", "b.m", "a.m"]),
        (ward(0, 9, 8, on_trial=(8,)), {}, ["a.m"]),
        (ward(0, 8, on_trial=(8,)), {}, []),
        (ward(1, 9, 8, 7), {"max_ejected": 0.5}, ["c.m"]),
        (ward(1, 9, 8, 7), {"max_ejected": 0.1}, ["c.m", "b.m"]),
        (ward(1, 9), {"max_ejected": 0.1}, []),
        (ward(2, 9, due=1), {"max_ejected": 0.25}, ["a.m"]),
        (ward(7, 9, 8, 7), {"max_ejected": 0.3}, []),
    ],
)
def test_patients_are_let_in(place: Ward, rules: dict[str, Any], expected: list[str]) -> None:
    """All when too few are well, else what exceeds the most that may be away; least ill first, none on trial."""
    assert chosen(place, **rules) == expected


# -- in the pipeline


def ill(reason: str = "error_threshold", *, in_ms: int = 60_000, **fields: Any) -> EntityState:
    return EntityState("standby", reason, fields.pop("mode", "trial"), until_ms=NOW_MS + in_ms, **fields)


def house(*models: str, scripts: dict[str, Any] | None = None, **rules: Any) -> House:
    topology = mesh(*models, pool={"deactivation": rules, "strategy": "round-robin"})
    return House(topology, ScriptedTransport(**(scripts or {})))


async def plan_of(place: House, **fields: Any) -> Plan:
    return await place.pipeline.plan(chat(**fields))


def order(plan: Plan) -> list[tuple[str, How]]:
    return [(target.model.id, target.how) for target in plan.targets]


async def test_when_all_are_ill_the_least_ill_is_tried_first() -> None:
    """Rather than failing everybody."""
    place = house("a.m", "b.m")
    place.view.models = {"a.m": ill(in_ms=9000), "b.m": ill("outage", in_ms=5000)}
    plan = await plan_of(place)

    assert order(plan) == [("b.m", How.DESPITE), ("a.m", How.DESPITE)]
    assert plan.skipped == {"a.m": "error_threshold", "b.m": "outage"}


async def test_one_that_is_well_is_enough() -> None:
    """A model on the ramp counts as well, whatever the draw."""
    place = house("a.m", "b.m")
    place.view.models = {"a.m": ill(), "b.m": EntityState(phase="ramp", step=0)}

    assert order(await plan_of(place)) == [("b.m", How.NORMAL)]


@pytest.mark.parametrize(
    ("reason", "mode"),
    [
        ("manual", "manual"),
        ("outage", "manual"),
        ("auth", "trial"),
        ("quota_exhausted", "trial"),
        ("maintenance_window", "time"),
        ("budget_exceeded", "time"),
        ("rate_limited", "time"),
    ],
)
async def test_only_health_gives_way(reason: str, mode: str) -> None:
    """Orders, quotas, limits and refused credentials hold also when nobody else is left."""
    place = house("a.m", "b.m")
    place.view.models = {name: ill(reason, mode=mode) for name in ("a.m", "b.m")}

    assert order(await plan_of(place)) == []


async def test_an_ill_model_on_a_closed_account_stays_away() -> None:
    """Both must be away for health alone."""
    place = house("a.m", "b.m")
    place.view.models = {name: ill() for name in ("a.m", "b.m")}
    place.view.providers = {"a": ill("auth"), "b": ill("outage")}

    assert order(await plan_of(place)) == [("b.m", How.DESPITE)]


async def test_who_is_due_goes_first_and_the_ill_come_last() -> None:
    """The trial is for one request; the others need not fail because of it."""
    place = house("a.m", "b.m")
    place.view.models = {"a.m": ill(), "b.m": ill(in_ms=-1)}

    assert order(await plan_of(place)) == [("b.m", How.NORMAL), ("a.m", How.DESPITE)]


async def test_a_pool_of_one_cools_down() -> None:
    """There is nothing to choose: its callers are told when to come back. So are those who ask for one model."""
    alone, two = house("a.m"), house("a.m", "b.m")
    alone.view.models = two.view.models = {"a.m": ill(), "b.m": ill()}

    assert order(await plan_of(alone)) == []
    assert order(await plan_of(two, model="a.m")) == []


async def test_beyond_the_cap_the_least_ill_keeps_its_place_in_the_order() -> None:
    """Of four no more than half may be away."""
    place = house(*MODELS, max_ejected=0.5)
    place.view.models = {"a.m": ill(in_ms=9000), "b.m": ill(in_ms=100), "c.m": ill(in_ms=8000)}

    assert sorted(order(await plan_of(place))) == [("b.m", How.DESPITE), ("d.m", How.NORMAL)]


async def test_a_request_in_panic_is_admitted_so_and_says_so() -> None:
    """The ask tells the scripts; the trail becomes a header, a log field and a metric."""
    place = house("a.m", "b.m", scripts={"a": whole(), "b": whole()})
    place.view.models = {"a.m": ill(in_ms=9000), "b.m": ill(in_ms=5000)}
    await place.serve()

    assert [(ask.model, ask.how) for ask in place.ledger.asks] == [("b.m", How.DESPITE)]
    assert place.trail.is_panic
    assert place.ledger.outcomes == [("b.m", Outcome.SUCCESS)]
    place.assert_clean()


async def test_the_whole_pool_counts_but_for_those_who_are_kept_away() -> None:
    """Well, due, ill; a model under an order, a limit or maintenance is no member for now."""
    place = house(*MODELS, "e.m", "f.m")
    place.view.models = {
        "b.m": ill(),
        "c.m": ill(in_ms=-1),
        "d.m": ill("manual", mode="manual"),
        "e.m": ill("budget_exceeded", mode="time"),
    }
    models = list(place.topology.models.values())
    resting = FakeCalendars(rests={"f.m"})
    stock = take_stock(models, place.view, resting, NOW_MS)

    assert (stock.well, stock.due, [p.model.id for p in stock.patients], stock.size) == (1, 1, ["b.m"], 3)


async def test_what_is_asked_on_faith_is_counted_by_pool() -> None:
    """Asked when a model has admitted it, answered when it has done so well."""
    place = house("a.m", "b.m", scripts={"a": whole(), "b": whole()})
    place.view.models = {"a.m": ill(in_ms=9000), "b.m": ill(in_ms=5000)}
    await place.serve()
    place.view.models = {}
    await place.serve()

    assert (place.router.faith.asked, place.router.faith.answered) == ({"chat": 1}, {"chat": 1})


def test_faith_is_used_up_and_earned_back() -> None:
    """What answers well in one of five cases is asked as often as anybody wants; what never does, hardly."""
    dead, limping = Pace(2.0, 10), Pace(2.0, 10)
    asked = [0, 0]
    for number in range(1000):
        now = number / 100
        asked[0] += dead.take(now)
        if limping.take(now):
            asked[1] += 1
            if number % 4 == 0:
                limping.earn(5.0)

    assert asked[0] <= 10 + 2 * 10
    assert asked[1] > 900
