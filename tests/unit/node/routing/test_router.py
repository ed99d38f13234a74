"""The journey of a call over several targets: retries, refusals, and life without Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from shared_state.errors import (
    AllProvidersExhaustedError,
    DeadlineExceededError,
    LimitReachedError,
    NoActiveModelError,
    ProviderProtocolError,
    RejectedRequestError,
    StateUnavailableError,
)
from shared_state.ledger import LEASED, Amounts, Code, LeaseWish, Outcome, Verdict
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.routing.scene import CHARGED_NOTHING, GOOD, charged, house
from tests.unit.node.scripted import Answer, ScriptedTransport, chunk, pause, refused, stream, whole
from tests.unit.node.virtual_time import in_virtual_time

# -- the caller's mistake


@pytest.mark.parametrize("status", [400, 413, 422])
@in_virtual_time
async def test_a_callers_mistake_is_tried_once_and_harms_nobody(status: int) -> None:
    """The provider's own body is what the caller gets."""
    place = house(retry={"max_attempts": 3}, alpha=refused(status, code="bad_value"), beta=whole())

    with pytest.raises(RejectedRequestError) as caught:
        await place.serve()
    assert caught.value.status == status
    assert orjson.loads(caught.value.body)["error"]["code"] == "bad_value"
    assert place.transport.hosts == ["alpha"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_NOTHING
    place.assert_clean()


# -- retries and refusals


@in_virtual_time
async def test_the_same_model_is_tried_again_after_a_pause() -> None:
    """Each attempt is a reservation of its own."""
    place = house(
        retry={"max_attempts": 3, "backoff": "fixed", "initial_delay": "500ms"},
        alpha=[refused(500), refused(503), whole()],
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() - began == pytest.approx(1.0)
    assert place.transport.hosts == ["alpha"] * 3
    assert [ask.reservation for ask in place.ledger.asks] == ["r1", "r2", "r3"]
    assert [outcome for _, outcome in place.ledger.outcomes] == [
        Outcome.FAILURE,
        Outcome.FAILURE,
        Outcome.SUCCESS,
    ]
    place.assert_clean()


@pytest.mark.parametrize("others", [{}, {"beta": whole()}], ids=["alone", "with another"])
@in_virtual_time
async def test_a_kept_connection_that_was_dead_costs_no_time(
    others: dict[str, Any],
) -> None:
    """The next attempt, elsewhere or on a new connection, begins at once with a reservation of its own."""
    dead = httpx.RemoteProtocolError("closed")
    dead.was_stale = True  # type: ignore[attr-defined]
    place = house(retry={"max_attempts": 1}, alpha=[dead, whole()], **others)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() == began
    assert place.transport.hosts == ["alpha", "beta" if others else "alpha"]
    assert place.ledger.outcomes[1:] == [("beta.m" if others else "alpha.m", Outcome.SUCCESS)]
    place.assert_clean()


@in_virtual_time
async def test_a_provider_that_says_when_is_believed() -> None:
    """The pause is the one that was asked for."""
    place = house(retry={"max_attempts": 2}, alpha=[refused(429, headers={"retry-after": "3"}), whole()])
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() - began == pytest.approx(3.0)


@in_virtual_time
async def test_attempts_are_bounded() -> None:
    """However many pools, models and retries: ten attempts, then the caller hears of it."""
    scripts: dict[str, Any] = {f"p{number}": refused(500) for number in range(8)}
    place = house(retry={"max_attempts": 3, "initial_delay": "1ms"}, **scripts)

    with pytest.raises(AllProvidersExhaustedError, match="10 attempts"):
        await place.serve()
    assert len(place.transport.requests) == 10
    assert place.trail.attempts == 10
    place.assert_clean()


@in_virtual_time
async def test_the_same_provider_goes_first_if_the_pool_says_so() -> None:
    """Its other model before everybody else's."""
    topology = mesh("alpha.m", "beta.m", "alpha.n", pool={"retry": {"scope": "same_provider"}})
    place = House(topology, ScriptedTransport(alpha=[refused(500), whole()], beta=whole()))
    await place.serve()

    assert [model for model, _ in place.ledger.outcomes] == ["alpha.m", "alpha.n"]


@in_virtual_time
async def test_a_refusal_is_no_attempt_and_the_next_model_is_asked() -> None:
    """Nothing was sent; the trail says why."""
    place = house(alpha=whole(), beta=whole())
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")]
    await place.serve()

    assert place.transport.hosts == ["beta"]
    assert place.trail.attempts == 1
    assert place.trail.skipped == {"alpha.m": "rpm"}
    assert place.ledger.outcomes == [("beta.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_limits_everywhere_say_when_to_come_back() -> None:
    """429 with the earliest time of all."""
    place = house(alpha=whole(), beta=whole())
    place.ledger.verdicts = {
        "alpha.m": [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")],
        "beta.m": [Verdict(Code.AT_LIMIT, NOW_MS + 4000, "tpm")],
    }

    with pytest.raises(LimitReachedError) as caught:
        await place.serve()
    assert caught.value.retry_after_s == pytest.approx(4.0)
    assert place.transport.requests == []


@in_virtual_time
async def test_nobody_active_is_unavailable() -> None:
    """503; the admission's own verdict counts like the snapshot's."""
    place = house(alpha=whole())
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STANDBY, NOW_MS + 1000, "error_threshold")]

    with pytest.raises(NoActiveModelError):
        await place.serve()


@in_virtual_time
async def test_a_reservation_says_what_may_be_used() -> None:
    """Tokens, money, and how long it may live unsettled."""
    place = house(alpha=whole())
    call = chat(max_tokens=100)
    await place.serve(call)
    ask = place.ledger.asks[0]

    assert (ask.model, ask.pool, ask.tokens_out) == ("alpha.m", "chat", 100)
    assert ask.tokens_in == -(-call.body_bytes // 2)
    assert ask.cost_nano == ask.tokens_in * 1000 + 100 * 2000
    assert ask.lease_ms == 320_000


# -- without Redis


@pytest.mark.parametrize(
    ("on_loss", "limits", "serves"),
    [
        ("leased", {}, True),
        ("leased", {"rpm": 60}, False),
        ("open", {"rpm": 60}, True),
        ("closed", {}, False),
    ],
)
@in_virtual_time
async def test_without_redis_the_deployment_decides(
    on_loss: str, limits: dict[str, int], serves: bool
) -> None:
    """Unlimited models go on, limited ones only where availability was preferred; it is settled later all the same."""
    place = House(
        mesh("alpha.m", model={"limits": limits}), ScriptedTransport(alpha=whole()), on_loss=on_loss
    )
    place.watch.connected = False
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STORE_AWAY)]

    if serves:
        await place.serve()
        assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
        assert place.trail.mode == on_loss
    else:
        with pytest.raises(StateUnavailableError):
            await place.serve()
        assert place.transport.requests == []


@pytest.mark.parametrize("code", [Code.STORE_AWAY, Code.HELD])
@in_virtual_time
async def test_without_redis_what_was_paid_in_advance_is_spent(code: Code) -> None:
    """A limited model serves out of this node's lease, and not beyond it; so it does while the domain is held after a loss."""
    place = House(mesh("alpha.m", model={"limits": {"rpm": 60}}), ScriptedTransport(alpha=whole()))
    place.watch.connected = code is Code.HELD
    place.watch.held = {"alpha"}
    place.ledger.verdicts["alpha.m"] = [Verdict(code)] * 3  # a held one is asked for again after the hold
    allowance = place.allowances["alpha.m"]
    held = Amounts(1, 10_000, 10_000, 10_000, 0)
    now = asyncio.get_running_loop().time()
    allowance.renewed(LeaseWish("alpha.m", Amounts(), Amounts(), 1, held), held, asked_at=now)

    await place.serve()
    assert place.trail.mode == "leased"
    assert place.ledger.settled[0].flags & LEASED
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
    with pytest.raises(StateUnavailableError):
        await place.serve()

    assert len(place.transport.requests) == 1


@in_virtual_time
async def test_a_request_waits_for_the_end_of_a_hold() -> None:
    """After a restart of Redis the first requests are late, not refused."""
    place = House(mesh("alpha.m", model={"limits": {"rpm": 60}}), ScriptedTransport(alpha=whole()))
    place.watch.hold("alpha")
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.HELD)]
    task = place.start()
    await asyncio.sleep(1.5)
    was_waiting = not task.done()
    place.watch.release("alpha")
    await task

    assert was_waiting
    assert place.trail.mode == "exact"
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_nobody_waits_for_a_hold_beyond_the_deadline() -> None:
    place = House(
        mesh("alpha.m", model={"limits": {"rpm": 60}}, pool={"retry": {"deadline": "1s"}}),
        ScriptedTransport(alpha=whole()),
    )
    place.watch.hold("alpha")
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.HELD)]
    with pytest.raises(DeadlineExceededError):
        await place.serve()

    assert place.transport.requests == []


def _pay(place: House, requests: int) -> None:
    """Gives the node a lease of so many requests."""
    held = Amounts(requests, 100_000, 100_000, 100_000, 0)
    now = asyncio.get_running_loop().time()
    wish = LeaseWish("alpha.m", Amounts(), Amounts(), requests, held)
    place.allowances["alpha.m"].renewed(wish, held, asked_at=now)


@in_virtual_time
async def test_what_was_paid_in_advance_is_taken_until_the_call_ends() -> None:
    """Redis must hold its slot as long; afterwards it is used."""
    scripts = {"alpha": stream(chunk("one"), pause(5), *GOOD[1:])}
    place = House(mesh("alpha.m", model={"limits": {"rpm": 60}}), ScriptedTransport(**scripts))
    place.watch.connected = False
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STORE_AWAY)]
    _pay(place, 2)
    allowance = place.allowances["alpha.m"]
    task = place.start(stream=True)
    await asyncio.sleep(1)
    while_running = (allowance.running.requests, allowance.used.requests)
    await task

    assert while_running == (1, 0)
    assert (allowance.running.requests, allowance.used.requests) == (0, 1)


@pytest.mark.parametrize("comes", [True, False])
@in_virtual_time
async def test_redis_is_asked_when_it_knows_what_was_spent_meanwhile(comes: bool) -> None:
    """Else it might admit a request out of a lease that is spent. If the report does not come, Redis is away still."""
    place = House(mesh("alpha.m", model={"limits": {"rpm": 60}}), ScriptedTransport(alpha=whole()))
    place.watch.connected = False
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STORE_AWAY)]
    _pay(place, 1)
    await place.serve()
    place.watch.connected = True
    task = place.start()
    await asyncio.sleep(0.1)
    asked_early = len(place.ledger.asks)
    if comes:
        allowance = place.allowances["alpha.m"]
        wish = allowance.wish()
        allowance.renewed(wish, Amounts(), asked_at=asyncio.get_running_loop().time())
        await task
    else:
        with pytest.raises(StateUnavailableError):
            await task

    assert asked_early == 1
    assert len(place.ledger.asks) == (2 if comes else 1)


@in_virtual_time
async def test_a_node_that_has_seen_nothing_serves_nothing() -> None:
    """It cannot know who is on standby."""
    place = house(alpha=whole())
    place.view.is_complete.clear()

    with pytest.raises(StateUnavailableError) as caught:
        await place.serve()
    assert caught.value.retry_after_s == 1.0
    assert place.router.in_flight == 0


@in_virtual_time
async def test_a_fault_of_ours_is_settled_too() -> None:
    """Whatever is raised, the reservation ends and the answer is closed."""
    place = house(alpha=stream(chunk("one"), RuntimeError("a bug")))

    with pytest.raises(RuntimeError, match="a bug"):
        await place.serve(stream=True)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    place.assert_clean()


@in_virtual_time
async def test_an_oversized_answer_is_the_providers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it reaches the caller."""
    monkeypatch.setattr("node.providers.connector.MAX_ANSWER_BYTES", 10)
    place = house(alpha=Answer(b"x" * 20))

    with pytest.raises(AllProvidersExhaustedError) as caught:
        await place.serve()
    assert ProviderProtocolError.__name__ not in caught.value.message
    assert place.reader.body == b""
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE)]
    place.assert_clean()


@in_virtual_time
async def test_attempts_count_as_under_way_until_they_end() -> None:
    """However they end: the signals of this node's own work."""
    place = house(alpha=refused(500), beta=whole())
    seen: list[list[str]] = []
    send = place.transport.handle_async_request

    async def watched(request: httpx.Request) -> httpx.Response:
        seen.append(list(place.signals.under_way_now))
        return await send(request)

    place.transport.handle_async_request = watched  # type: ignore[method-assign]
    await place.serve()

    assert seen == [["alpha.m"], ["beta.m"]]
    assert place.signals.under_way_now == []


@in_virtual_time
async def test_what_a_provider_says_of_its_limits_is_passed_on() -> None:
    """For the ranking of the next request."""
    said = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7"}
    place = house(alpha=Answer(*whole().body.parts, headers={"content-type": "application/json", **said}))
    await place.serve()

    assert place.signals.told == [("alpha.m", (0.07, 60.0))]
