"""What a request may try, and what it costs the pool's retry budget."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from node.api.border import read_passport
from node.call import Call, Trail
from node.observe.retries import RetryCounters
from node.passport import FRESH, HEADER, Passport, stamp
from node.routing.budget import RetryBudget
from node.routing.interrupts import Interrupts
from shared_state.config.pools import RetryBudgetConfig
from shared_state.errors import (
    AllProvidersExhaustedError,
    LoopDetectedError,
    NoActiveModelError,
    RejectedRequestError,
    RequestError,
)
from shared_state.ledger import Code, Verdict
from shared_state.retries import Sent
from shared_state.state import EntityState
from tests.unit.node.api.asgi import Front
from tests.unit.node.house import House, Reader, chat, mesh
from tests.unit.node.routing.scene import GOOD, house
from tests.unit.node.scripted import DONE, Answer, ScriptedTransport, for_ever, pause, refused, stream, whole
from tests.unit.node.virtual_time import in_virtual_time

NONE = {"share": 0, "floor": 0}


def broke(**scripts: Any) -> House:
    """A node without any retries to make."""
    return house(retry={"scope": "any", "budget": NONE}, **scripts)


@in_virtual_time
async def test_without_budget_a_failure_is_answered_at_once() -> None:
    """The other model is not asked, and the caller is asked not to come back by itself."""
    place = broke(alpha=refused(500), beta=whole())
    with pytest.raises(AllProvidersExhaustedError) as caught:
        await place.serve()

    assert place.transport.hosts == ["alpha"]
    assert caught.value.is_final
    assert caught.value.retry_after_s == 1.0
    assert "retry budget" in caught.value.message
    assert place.trail.skipped == {"beta.m": "retry_budget"}
    place.assert_clean()


@in_virtual_time
async def test_the_same_model_is_not_tried_again_without_budget() -> None:
    """Neither at once nor after its pause."""
    place = house(retry={"max_attempts": 3, "budget": NONE}, alpha=[refused(500), whole()])
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve()

    assert place.transport.hosts == ["alpha"]


@in_virtual_time
async def test_what_reached_nobody_costs_nothing() -> None:
    """Two dead providers, and the third is the first that is asked."""
    dead = httpx.ConnectError("refused")
    place = broke(alpha=dead, beta=dead, gamma=whole())
    await place.serve()

    assert place.reader.status == 200
    assert place.budgets.pools["chat"].made == 0


@in_virtual_time
async def test_a_detour_after_a_refusal_costs_nothing() -> None:
    """The pool's fallbacks are no retries."""
    pools = {
        "chat": {
            "models": ["alpha.m"],
            "fallbacks": {"content_policy": ["beta.m"]},
            "retry": {"budget": NONE},
        }
    }
    place = House(
        mesh("alpha.m", "beta.m", pools=pools),
        ScriptedTransport(alpha=refused(400, code="content_filter"), beta=whole()),
    )
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta"]


@in_virtual_time
async def test_a_refusal_stays_the_callers_answer() -> None:
    """A budget that is used up does not hide the provider's own word."""
    place = broke(alpha=refused(400))
    with pytest.raises(RejectedRequestError) as caught:
        await place.serve()

    assert not caught.value.is_final


@in_virtual_time
async def test_a_retry_that_finds_nobody_goes_back() -> None:
    """It is paid before admission, which may refuse."""
    place = house(retry={"scope": "any"}, alpha=refused(500), beta=whole())
    place.ledger.verdicts["beta.m"] = [Verdict(Code.AT_LIMIT, 1)]
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve()
    budget = place.budgets.pools["chat"]

    assert (budget.made, budget.refused) == (0, 0)


# -- the budget of a node without the others


async def nobody(budget: RetryBudget) -> None:
    """There is nobody to talk to."""


def budget(*, nodes: int = 1, **rules: float) -> RetryBudget:
    return RetryBudget(
        RetryBudgetConfig(**rules),
        nodes=lambda: nodes,
        now=lambda: 0.0,
        is_alone=lambda: True,
        exchange=nobody,
    )


def taken(budget: RetryBudget, most: int = 10_000) -> int:
    """How many retries it gives."""
    return next((count for count in range(most) if not budget.take()), most)


def test_a_system_that_has_just_started_may_retry_a_little() -> None:
    """A fifth of the floor over ten seconds, shared by the nodes."""
    assert taken(budget()) == 20
    assert taken(budget(nodes=4)) == 5


def test_good_answers_pay_for_retries_up_to_the_floor() -> None:
    """One each; ten a second over ten seconds at most."""
    fair, busy = budget(), budget()
    for one, answers in ((fair, 30), (busy, 500)):
        for _ in range(answers):
            one.note_request()
            one.note_answer()

    assert taken(fair) == 50
    assert taken(busy) == 100


def test_under_load_retries_are_a_share_of_the_requests() -> None:
    """The floor is no addition to it."""
    busy = budget()
    for _ in range(5000):
        busy.note_request()

    assert taken(busy) == 500


def test_what_is_spent_comes_back_after_ten_seconds() -> None:
    """Seconds leave the window one by one."""
    one = budget()
    taken(one)
    for _ in range(9):
        one.roll()
    assert not one.take()
    one.roll()

    assert taken(one) == 20


# -- the budget of a node among others


class Fleet:
    """The others, as far as they answer: with these parts, one after the other."""

    def __init__(self, *parts: int) -> None:
        self.parts = list(parts)
        self.now = 0.0
        self.is_away = False
        self.sent: list[Sent] = []

    async def exchange(self, budget: RetryBudget) -> None:
        self.sent.append(budget.report())
        if self.parts:
            budget.heard(self.parts.pop(0), asked_at=self.now)

    def budget(self) -> RetryBudget:
        return RetryBudget(
            RetryBudgetConfig(),
            nodes=lambda: 10,
            now=lambda: self.now,
            is_alone=lambda: self.is_away,
            exchange=self.exchange,
        )


async def test_a_newcomer_has_nothing_of_its_own() -> None:
    """It asks as soon as it wants a retry, and makes no more than it was given."""
    fleet = Fleet(3)
    one = fleet.budget()
    assert not one.take()
    await one.refill()

    assert taken(one) == 3


async def test_nobody_asks_all_the_time() -> None:
    """A crowd asks once and shares the answer; with nothing left it asks ten times a second."""
    fleet = Fleet(0, 0, 5)
    one = fleet.budget()
    await asyncio.gather(*(one.refill() for _ in range(50)))
    await one.refill()
    assert len(fleet.sent) == 1
    for _ in range(2):
        fleet.now += 0.1
        await one.refill()
    await one.refill()

    assert len(fleet.sent) == 3
    assert taken(one) == 5


async def test_nobody_waits_long_for_an_answer() -> None:
    """A tenth of a second; then there is none."""
    one = Fleet().budget()
    one._exchange = for_ever  # type: ignore[assignment]
    began = asyncio.get_running_loop().time()
    await one.refill()

    assert asyncio.get_running_loop().time() - began < 1
    assert not one.take()
    one.ask().cancel()


async def test_a_part_holds_until_it_expires() -> None:
    """From then on there is none, but for a node that has lost Redis: it goes by its own counts."""
    fleet = Fleet(3)
    one = fleet.budget()
    await one.refill()
    assert taken(one) == 3
    fleet.now = 2.6
    assert taken(one) == 0
    fleet.is_away = True

    assert taken(one) == 0  # two of a tenth of the floor, and three were made


async def test_while_a_report_is_under_way_half_of_the_part_is_kept() -> None:
    """The rest comes back with the answer, which knows nothing of what was spent meanwhile."""
    fleet = Fleet(9)
    one = fleet.budget()
    await one.refill()
    one.note_request()
    one.take()
    sent = one.report()
    one.take()
    one.heard(6, asked_at=0.0)

    assert (sent.requests, sent.retries, sent.kept) == (1, 1, 4)
    assert taken(one) == 5


def test_a_report_that_was_not_heard_is_said_again() -> None:
    """With the same number, so that it is booked once; what came later waits for the next."""
    one = Fleet().budget()
    one.note_request()
    first = one.report()
    one.note_request()
    one.note_answer()
    second = one.report()
    one.heard(5, asked_at=0.0)
    third = one.report()

    assert first is second
    assert (third.requests, third.good) == (1, 1)
    assert third.sequence == first.sequence + 1


def test_a_retry_that_goes_back_after_its_report_is_off_the_next() -> None:
    """It was booked, and was not made."""
    one = Fleet().budget()
    one.note_request()
    one.report()
    one.heard(1, asked_at=0.0)
    one.take()
    one.report()
    one.heard(0, asked_at=0.0)
    one.give_back()

    assert one.report().retries == 0
    assert one.take()


def test_a_pool_that_falls_silent_returns_its_part() -> None:
    """Ten seconds after the last request there is one thing to say, and then nothing."""
    one = Fleet().budget()
    assert not one.roll()
    one.note_request()
    told = []
    for _ in range(12):
        told.append(one.roll())
        if told[-1]:
            kept = one.report().kept
            one.heard(1 if kept is not None else 0, asked_at=0.0)

    assert told == [True] * 10 + [False] * 2
    assert kept is None


@in_virtual_time
async def test_everything_failing_is_asked_little_more_than_callers_ask() -> None:
    """Two thousand requests at once against three failing models, none of which goes to standby here."""
    place = house(retry={"scope": "any"}, alpha=refused(500), beta=refused(500), gamma=refused(500))
    finals = await asyncio.gather(*(fail(place) for _ in range(2000)))

    assert sum(finals) >= 1800
    assert 2000 <= len(place.transport.requests) <= 2200


@in_virtual_time
async def test_what_went_well_pays_for_a_failover_of_all_that_is_under_way() -> None:
    """Sixty calls fail at once; fifty good answers before are as many retries more than the twenty that are always there."""
    turns = [*(whole() for _ in range(50)), *(refused(500) for _ in range(60))]
    place = house(retry={"scope": "any"}, alpha=turns, beta=whole())
    for _ in range(50):
        await attempt(place)
    await asyncio.gather(*(attempt(place) for _ in range(60)))

    assert Counter(place.transport.hosts) == {"alpha": 110, "beta": 60}
    assert place.budgets.pools["chat"].refused == 0


async def fail(place: House) -> bool:
    """A request that nobody can answer; whether its caller is asked not to send it again."""
    task = asyncio.current_task()
    assert task is not None
    try:
        await place.router.serve(chat(), Reader(), Interrupts(task), Trail())
    except AllProvidersExhaustedError as error:
        return error.is_final
    return False


@in_virtual_time
async def test_retries_are_counted() -> None:
    """Made and refused, by pool."""
    place = house(
        retry={"scope": "any", "budget": {"share": 0, "floor": 0.5}}, alpha=refused(500), beta=refused(500)
    )
    for _ in range(3):
        await fail(place)
    found = {
        sample.name: sample.value
        for family in RetryCounters(place.budgets).collect()
        for sample in family.samples
    }

    assert found == {
        "modelmesh_retries_total": 1,
        "modelmesh_retries_refused_total": 2,
        "modelmesh_hedges_total": 0,
    }


# -- what may have been billed


@in_virtual_time
async def test_what_may_have_been_billed_is_repeated_on_another_account_only() -> None:
    """The second model of the same account is passed over, the other account answers."""
    place = House(
        mesh("alpha.a", "alpha.b", "beta.m", pool={"retry": {"max_attempts": 3}}),
        ScriptedTransport(alpha=Answer(b"garbage"), beta=whole()),
    )
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta"]
    assert place.trail.skipped == {"alpha.b": "maybe_billed"}
    assert place.trail.may_be_billed
    place.assert_clean()


@in_virtual_time
async def test_an_account_stays_billed_when_others_have_failed_too() -> None:
    """A plain failure in between makes nobody forget."""
    place = House(
        mesh("alpha.a", "beta.m", "alpha.b", pool={"retry": {"max_attempts": 1, "scope": "any"}}),
        ScriptedTransport(alpha=Answer(b"garbage"), beta=refused(500)),
    )
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve()

    assert place.transport.hosts == ["alpha", "beta"]


@in_virtual_time
async def test_a_pool_may_forbid_any_repetition() -> None:
    """Then the failure is the answer."""
    place = house(retry={"maybe_billed": "never"}, alpha=Answer(b"garbage"), beta=whole())
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve()

    assert place.transport.hosts == ["alpha"]


@in_virtual_time
async def test_a_timeout_before_anything_was_sent_is_no_bill() -> None:
    """There was no connection in time."""
    place = house(retry={"maybe_billed": "never"}, alpha=whole(), beta=stream(*GOOD, DONE))
    place.transport.connects = [for_ever]
    await place.serve(stream=True)

    assert place.transport.hosts == ["beta"]
    assert not place.trail.may_be_billed


# -- the passport


def travelled(**passport: Any) -> Call:
    call = chat()
    call.passport = Passport(**passport)
    return call


def stamps(place: House) -> list[str]:
    """What the providers were told, without the time."""
    return [
        request.headers["x-modelmesh-passport"].rsplit("; ", 1)[0] for request in place.transport.requests
    ]


@in_virtual_time
async def test_a_provider_is_told_how_much_is_left() -> None:
    """One attempt while there are other ways from here; all that is left on the last one."""
    place = house(retry={"scope": "any"}, alpha=refused(500), beta=whole())
    await place.serve(deadline_s=7)

    assert stamps(place) == ["hops=1; attempts=1", "hops=1; attempts=9"]
    assert place.transport.requests[0].headers["x-modelmesh-passport"].endswith("; ms=7000")


@in_virtual_time
async def test_a_request_makes_no_more_attempts_than_its_passport_allows() -> None:
    """The router before this one goes on."""
    place = house(retry={"scope": "any"}, alpha=refused(500), beta=whole())
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve(travelled(hops=2, attempts=1))

    assert stamps(place) == ["hops=3; attempts=1"]


@in_virtual_time
async def test_an_sdks_own_retry_fails_over_once_and_does_not_feed_the_budget() -> None:
    """It is a retry already."""
    place = house(retry={"max_attempts": 3}, alpha=refused(500), beta=refused(500), gamma=whole())
    budget = place.budgets.pools["chat"]
    await budget.refill()
    with pytest.raises(AllProvidersExhaustedError):
        await place.serve(travelled(is_repeat=True))

    assert place.transport.hosts == ["alpha", "beta"]
    assert (budget.made, budget.report().requests) == (2, 0)


@in_virtual_time
async def test_an_sdks_own_retry_is_carried_out_without_budget() -> None:
    """Once: there may be nothing wrong any more."""
    place = broke(alpha=whole())
    await place.serve(travelled(is_repeat=True))

    assert place.reader.status == 200


class Nested(ScriptedTransport):
    """A provider ``inner`` that is a router itself; the others follow a script."""

    def __init__(self, inner: Front, **scripts: Any) -> None:
        super().__init__(**scripts)
        self._inner = httpx.ASGITransport(inner.app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != "inner":
            return await super().handle_async_request(request)
        request.extensions["on_send"]()
        return await self._inner.handle_async_request(request)


@pytest.mark.parametrize(("others", "reached"), [((), 3), (("beta.m",), 1)])
async def test_routers_in_a_row_do_not_multiply_attempts(others: tuple[str, ...], reached: int) -> None:
    """Nine models that fail behind two routers: the inner one tries one, or as many as its rules allow, never again and again."""
    inside = House(
        mesh("a.m", "b.m", "c.m", pool={"retry": {"scope": "any"}}),
        ScriptedTransport(a=refused(500), b=refused(500), c=refused(500)),
    )
    topology = mesh(
        "inner.m",
        *others,
        pool={"retry": {"max_attempts": 3, "initial_delay": "1ms"}},
        model={"upstream": "chat"},
    )
    outside = House(topology, Nested(Front(place=inside), beta=refused(500)))
    with pytest.raises(AllProvidersExhaustedError):
        await outside.serve()

    assert len(inside.transport.hosts) == reached


def test_a_circle_of_routers_has_an_end() -> None:
    """Each one adds a hop, and the sixth refuses."""
    passport = FRESH
    for _ in range(5):
        scope = {"headers": [(HEADER, stamp(passport, attempts=3, left_s=1.0))]}
        if passport.hops == 4:
            with pytest.raises(LoopDetectedError):
                read_passport(scope)
        else:
            passport = read_passport(scope)

    assert passport == Passport(hops=4, attempts=3, left_s=1.0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hops=1",
        b"hops=1; attempts=0; ms=5",
        b"hops=-1; attempts=1; ms=5",
        b"hops=1; attempts=9999; ms=5",
    ]
    + [
        b"hops=1; attempts=1; ms=" + b"9" * 10,
        b"x" * 5000,
        b"hops=1; attempts=1; ms=5; more=1",
        b"hops=\xb9; attempts=1; ms=5",
    ],
)
def test_a_passport_that_cannot_be_understood_is_refused(text: bytes) -> None:
    """Whatever the size."""
    with pytest.raises(RequestError) as caught:
        read_passport({"headers": [(HEADER, text)]})
    assert caught.value.param == "x-modelmesh-passport"


@pytest.mark.parametrize(
    ("count", "is_repeat"),
    [(b"0", False), (b"1", True), (b"12", True), (b"-1", False), (b"x", False), (b"1" * 9, False)],
)
def test_an_sdk_says_that_it_tries_again(count: bytes, is_repeat: bool) -> None:
    """A count that is none is nobody's business."""
    passport = read_passport({"headers": [(b"x-stainless-retry-count", count)]})

    assert passport.is_repeat is is_repeat
    assert passport.attempts == 10


# -- a model that comes back


@in_virtual_time
async def test_a_crowd_does_not_follow_the_trial() -> None:
    """Nobody else can serve: the ramp's share goes through, and a few more; the others are told when to come again."""
    topology = mesh("alpha.m", pool={"recovery": {"ramp": [0.1, 1.0]}})
    slow = Answer(*whole().body.parts, wait=pause(0.05))
    place = House(topology, ScriptedTransport(alpha=slow), draw=[0.05, *([0.5] * 9)])
    place.view.models = {"alpha.m": EntityState(phase="ramp")}
    ends = await asyncio.gather(*(attempt(place) for _ in range(100)))
    refused = [end for end in ends if end is not None]

    assert 4 <= len(place.transport.requests) <= 13
    assert all(1.0 <= end.retry_after_s <= 2.0 for end in refused)
    assert len(refused) + len(place.transport.requests) == 100


@in_virtual_time
async def test_a_lonely_caller_is_not_refused_by_a_ramp() -> None:
    """Neither one after the other, nor with a long answer under way."""
    place = House(mesh("alpha.m"), ScriptedTransport(alpha=whole()), draw=[0.99])
    place.view.models = {"alpha.m": EntityState(phase="ramp")}
    ends = []
    for _ in range(20):
        ends.append(await attempt(place))
        await asyncio.sleep(0.1)

    assert ends == [None] * 20


async def attempt(place: House) -> NoActiveModelError | None:
    """One request; the refusal, if it is one."""
    task = asyncio.current_task()
    assert task is not None
    try:
        await place.router.serve(chat(), Reader(), Interrupts(task), Trail())
    except NoActiveModelError as error:
        return error
    return None
