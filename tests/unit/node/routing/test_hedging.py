"""A second attempt beside a slow one: one answer, both reservations settled once, whatever happens."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest

from node.call import Trail
from node.routing.slowness import share_s
from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig
from shared_state.errors import ModelMeshError
from shared_state.ledger import NOT_SENT, Code, Outcome, Verdict
from shared_state.state import EntityState
from tests.unit.node.house import House, Ledger, Reader, mesh
from tests.unit.node.routing.scene import CHARGED_IN_FULL, CLOCKS, GOOD, PRICED, charged
from tests.unit.node.scripted import (
    DONE,
    USAGE,
    Answer,
    ScriptedTransport,
    chunk,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

HEDGE = {"after": "1s", "max_share": 1.0}


async def again(place: House) -> None:
    """One more request."""
    place.trail, place.reader = Trail(), Reader()
    await place.serve()


def slow(seconds: float, text: str = "slow") -> Answer:
    return Answer(*whole(text).body.parts, wait=pause(seconds))


def slow_stream(seconds: float, text: str = "slow") -> Answer:
    return stream(GOOD[0], pause(seconds), chunk(text), GOOD[-1], USAGE, DONE)


def house(hedge: dict[str, Any] | None = None, *models: str, **scripts: Any) -> House:
    """A pool that hedges after a second, with one model on each scripted provider."""
    pool = {"retry": {"scope": "any"}, "hedge": HEDGE if hedge is None else hedge}
    topology = mesh(*(models or [f"{name}.m" for name in scripts]), model=PRICED, provider=CLOCKS, pool=pool)
    return House(topology, ScriptedTransport(**scripts))


@pytest.mark.parametrize("is_stream", [False, True])
@in_virtual_time
async def test_a_slow_attempt_is_overtaken(is_stream: bool) -> None:
    """The second has content first and is the answer; the first is ended, and charged in full."""
    make = slow_stream if is_stream else slow
    place = house(alpha=make(10), beta=make(0.5, "quick"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve(stream=is_stream)

    assert loop.time() - began == pytest.approx(1.5)
    assert b"quick" in place.reader.body
    assert b"slow" not in place.reader.body
    assert (place.reader.begun, place.reader.ended) == (int(is_stream), 1)
    assert place.trail.target is not None
    assert (place.trail.target.model.id, place.trail.attempts) == ("beta.m", 2)
    assert dict(place.ledger.outcomes) == {"alpha.m": Outcome.NEUTRAL, "beta.m": Outcome.SUCCESS}
    settled = {settlement.model: settlement for settlement in place.ledger.settled}
    assert charged(settled["alpha.m"]) == CHARGED_IN_FULL
    assert charged(settled["beta.m"]) == (7, 3, 7_000 + 6_000)
    assert (place.trail.tokens_in, place.trail.tokens_out) == (7, 3)
    assert place.budgets.pools["chat"].hedges == 1
    assert_clean(place)


@pytest.mark.parametrize("is_stream", [False, True])
@in_virtual_time
async def test_the_first_may_still_win(is_stream: bool) -> None:
    """It was slow, but not slower than the second."""
    make = slow_stream if is_stream else slow
    place = house(alpha=make(1.5, "first"), beta=make(5))
    await place.serve(stream=is_stream)

    assert b"first" in place.reader.body
    assert place.trail.target is not None
    assert place.trail.target.model.id == "alpha.m"
    assert len(place.ledger.settled) == 2
    assert_clean(place)


@in_virtual_time
async def test_a_quick_answer_is_not_hedged() -> None:
    """Nobody else is asked."""
    place = house(alpha=slow(0.9), beta=whole())
    await place.serve()

    assert place.transport.hosts == ["alpha"]
    assert_clean(place)


@in_virtual_time
async def test_a_stream_with_content_is_not_hedged() -> None:
    """However long it goes on."""
    place = house(alpha=stream(*GOOD[:2], pause(10), *GOOD[2:], DONE), beta=whole())
    await place.serve(stream=True)

    assert place.transport.hosts == ["alpha"]
    assert_clean(place)


@in_virtual_time
async def test_a_failure_of_the_first_leaves_the_answer_to_the_second() -> None:
    """It has been asked already."""
    failing = Answer(*refused(500).body.parts, status=500, wait=pause(1.2))
    place = house(alpha=failing, beta=slow(2, "second"))
    await place.serve()

    assert b"second" in place.reader.body
    assert place.transport.hosts == ["alpha", "beta"]
    assert_clean(place)


@in_virtual_time
async def test_a_failure_of_the_second_leaves_the_answer_to_the_first() -> None:
    """It is not tried again."""
    place = house(alpha=slow(3, "first"), beta=refused(500))
    await place.serve()

    assert b"first" in place.reader.body
    assert place.transport.hosts == ["alpha", "beta"]
    assert_clean(place)


@in_virtual_time
async def test_after_both_have_failed_the_third_is_asked() -> None:
    """As after any failure."""
    failing = Answer(*refused(500).body.parts, status=500, wait=pause(1.2))
    place = house(alpha=failing, beta=refused(500), gamma=whole())
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta", "gamma"]
    assert place.trail.attempts == 3
    assert_clean(place)


@in_virtual_time
async def test_who_may_have_been_billed_beside_is_billed() -> None:
    """Another model of the hedge's account is passed over."""
    failing = Answer(*refused(500).body.parts, status=500, wait=pause(1.2))
    place = house(
        None,
        "alpha.m",
        "beta.m",
        "beta.other",
        "gamma.m",
        alpha=failing,
        beta=Answer(b"garbage"),
        gamma=whole(),
    )
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta", "gamma"]
    assert_clean(place)


@pytest.mark.parametrize(
    "verdict", [Verdict(Code.AT_LIMIT, 1), Verdict(Code.STANDBY), Verdict(Code.ADMITTED, trial=True)]
)
@in_virtual_time
async def test_only_who_can_reserve_is_asked(verdict: Verdict) -> None:
    """And a trial is not wasted on it: what was admitted as one is given back."""
    place = house(alpha=slow(3), beta=whole())
    place.ledger.verdicts["beta.m"] = [verdict]
    await place.serve()

    assert place.transport.hosts == ["alpha"]
    assert place.trail.attempts == 1
    assert place.budgets.pools["chat"].made == 0
    assert_clean(place)


@in_virtual_time
async def test_a_reservation_that_comes_too_late_is_given_back() -> None:
    """The first answered while it was asked for."""
    place = house(alpha=slow(1.5), beta=whole())

    async def wait() -> None:
        if len(place.ledger.asks) == 2:
            await asyncio.sleep(1)

    place.ledger.wait = wait
    await place.serve()

    assert place.transport.hosts == ["alpha"]
    (given_back,) = [s for s in place.ledger.settled if s.model == "beta.m"]
    assert given_back.flags & NOT_SENT
    assert_clean(place)


@in_virtual_time
async def test_what_was_not_sent_yet_is_not_charged() -> None:
    """The second waited for a connection when the first answered."""
    place = house(alpha=slow(1.5), beta=whole())
    place.transport.connects = [pause(0), pause(10)]
    await place.serve()
    (lost,) = [s for s in place.ledger.settled if s.model == "beta.m"]

    assert lost.flags & NOT_SENT
    assert_clean(place)


@in_virtual_time
async def test_without_budget_nothing_is_hedged() -> None:
    """A hedge is paid like a retry."""
    pool = {"retry": {"budget": {"share": 0, "floor": 0}}, "hedge": HEDGE}
    place = House(
        mesh("alpha.m", "beta.m", provider=CLOCKS, pool=pool),
        ScriptedTransport(alpha=slow(3), beta=whole()),
    )
    await place.serve()

    assert place.transport.hosts == ["alpha"]


@in_virtual_time
async def test_hedges_are_a_share_of_the_requests() -> None:
    """One in four, here."""
    place = house({"after": "1s", "max_share": 0.25}, alpha=slow(3), beta=whole())
    for _ in range(20):
        await again(place)

    assert place.transport.hosts.count("beta") == 5
    assert_clean(place)


@in_virtual_time
async def test_p95_is_the_models_own_and_unknown_at_first() -> None:
    """Nothing is hedged before twenty answers; then what nineteen of twenty stayed below decides."""
    place = house({"max_share": 1.0}, alpha=[*[slow(0.2)] * 25, slow(3)], beta=whole("quick"))
    for _ in range(25):
        await again(place)
        await place.slowness.share()
    assert "beta" not in place.transport.hosts[:20]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await again(place)

    assert place.transport.hosts[-1] == "beta"
    assert loop.time() - began == pytest.approx(0.2)


@in_virtual_time
async def test_what_others_have_seen_is_known_from_the_start() -> None:
    """A node that has never asked the model hedges its first request."""
    place = house({"max_share": 1.0}, alpha=slow(3), beta=whole("quick"))
    place.waits.waits["alpha.m"] = {f"other{number}": 200 for number in range(20)}
    await place.slowness.share()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta"]
    assert loop.time() - began == pytest.approx(0.2)


@pytest.mark.parametrize(("hedge", "is_read"), [(None, False), ({"after": "1s"}, False), ({}, True)])
@in_virtual_time
async def test_waits_are_shared_only_where_a_pool_goes_by_them(
    hedge: dict[str, Any] | None, is_read: bool
) -> None:
    """Neither without hedges nor with a time of one's own."""
    pool = {} if hedge is None else {"hedge": hedge}
    place = House(mesh("alpha.m", pool=pool), ScriptedTransport(alpha=whole()))
    await place.serve()
    await place.slowness.share()

    assert place.slowness.is_wanted is is_read
    assert [len(waits) for waits in place.waits.waits.values()] == ([1] if is_read else [])


@in_virtual_time
async def test_a_busy_fleet_tells_few_of_its_waits() -> None:
    """All while nobody knows; then twenty a second from all nodes together, the latest."""
    place = house({"max_share": 1.0}, alpha=whole())
    place.slowness._nodes = lambda: 4
    for second in range(2):
        for number in range(30):
            place.slowness.note("alpha.m", f"r{second}-{number}", 0.1)
        await place.slowness.share()
    told = list(place.waits.waits["alpha.m"])

    assert told == [f"r0-{n}" for n in range(10, 30)] + [f"r1-{n}" for n in range(25, 30)]


@pytest.mark.parametrize(("nodes", "seconds"), [(0, 1.0), (3, 1.0), (100, 1.0), (400, 4.0), (5000, 10.0)])
def test_nodes_of_a_large_fleet_share_less_often(nodes: int, seconds: float) -> None:
    """A hundred times a second all together."""
    assert share_s(nodes) == seconds


@in_virtual_time
async def test_waits_are_shared_once_a_second() -> None:
    """And while Redis is away not at all, then at once."""
    place = house({"max_share": 1.0}, alpha=whole())
    sharing = asyncio.get_running_loop().create_task(place.slowness.run())
    await asyncio.sleep(2.5)
    assert place.waits.reads == 3
    place.watch.connected = False
    await asyncio.sleep(2)
    assert place.waits.reads == 3
    place.watch.connected = True
    for told in place.watch.returns:
        told()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sharing.cancel()
    await asyncio.wait([sharing])

    assert place.waits.reads == 4


@in_virtual_time
async def test_neither_trials_nor_recovering_models_hedge() -> None:
    """Neither are they hedged, nor do they stand in."""
    place = house(alpha=slow(3), beta=whole())
    place.view.models = {"beta.m": EntityState(phase="ramp")}
    place.pipeline._draw = lambda: 0.99
    await place.serve()

    assert place.transport.hosts == ["alpha"]


@in_virtual_time
async def test_the_head_is_sent_once_while_both_are_waited_for() -> None:
    """Comfort of either attempt, then the content of one."""
    place = house(alpha=slow_stream(20), beta=slow_stream(10, "quick"))
    await place.serve(stream=True)

    assert place.reader.begun == 1
    assert place.reader.body.replace(b": waiting\n\n", b"").count(b"quick") == 1
    assert b"slow" not in place.reader.body
    assert_clean(place)


@pytest.mark.parametrize("leaves_at", [0.5, 1.2, 2.5])
@in_virtual_time
async def test_a_caller_who_leaves_ends_both(leaves_at: float) -> None:
    """Before, while and after the second is asked."""
    place = house(alpha=slow(10), beta=slow_stream(10))
    serving = place.start()
    await asyncio.sleep(leaves_at)
    assert place.interrupts is not None
    place.interrupts.client_left()
    with pytest.raises(ModelMeshError) as caught:
        await serving

    assert caught.value.code == "client_disconnected"
    assert len(place.ledger.settled) == (1 if leaves_at < 1 else 2)
    assert_clean(place)


@in_virtual_time
async def test_the_deadline_ends_both() -> None:
    """It is the request's."""
    place = house(alpha=slow(10), beta=slow(10))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ModelMeshError) as caught:
        await place.serve(deadline_s=2)

    assert caught.value.code == "deadline_exceeded"
    assert loop.time() - began == pytest.approx(2)
    assert_clean(place)


# -- gates


KEY = ClientKey(id="k1", name="app", created=0.0, limits=LimitsConfig(usd_per_day=1.0))


def gated(**scripts: Any) -> House:
    """The same behind a gate of the pool and one of the mesh."""
    pool = {"retry": {"scope": "any"}, "hedge": HEDGE, "limits": {"rpm": 60, "tpm": 100_000}}
    budget = {"budget": {"daily_limit": 5.0}}
    models = [f"{name}.m" for name in scripts]
    topology = mesh(*models, model=PRICED, provider=CLOCKS, pool=pool, **budget)
    return House(topology, ScriptedTransport(**scripts))


def passed(place: House) -> list[Ledger]:
    """What each gate was asked and told."""
    return [place.at_gate(gate) for gate in place.gates]


@in_virtual_time
async def test_a_hedge_has_a_reservation_of_its_own_at_every_gate() -> None:
    """Each attempt is settled there with what it used: the loser in full, the answer as it was."""
    place = gated(alpha=slow(10), beta=slow(0.5, "quick"))
    await place.serve(key=KEY, max_tokens=100)

    assert b"quick" in place.reader.body
    assert sorted(place.gates) == ["key:k1", "mesh:budget", "pool:chat"]
    for gate in passed(place):
        first, hedge = gate.asks
        spent = {settlement.reservation: charged(settlement) for settlement in gate.settled}
        assert spent == {
            first.reservation: (first.tokens_in, 100, first.tokens_in * 1000 + 200_000),
            hedge.reservation: (7, 3, 13_000),
        }
        assert not any(settlement.flags & NOT_SENT for settlement in gate.settled)
    assert_clean(place)


@in_virtual_time
async def test_a_hedge_that_loses_unsent_gives_back_at_the_gates() -> None:
    """It waited for a connection when the first answered."""
    place = gated(alpha=slow(1.5), beta=whole())
    place.transport.connects = [pause(0), pause(10)]
    await place.serve(key=KEY)

    for gate in passed(place):
        hedge = gate.asks[1].reservation
        assert [s.flags & NOT_SENT for s in gate.settled if s.reservation == hedge] == [NOT_SENT]
    assert_clean(place)


@pytest.mark.parametrize("refusing", ["mesh:budget", "key:k1", "pool:chat"])
@pytest.mark.parametrize(
    "refusal",
    [
        Verdict(Code.AT_LIMIT, 1, "concurrency"),
        Verdict(Code.TOO_LARGE, -1, "usd_per_day"),
        Verdict(Code.STORE_AWAY),
        Verdict(Code.HELD),
    ],
)
@in_virtual_time
async def test_without_room_at_a_gate_nothing_is_hedged(refusing: str, refusal: Verdict) -> None:
    """The call goes on as if nobody had thought of it; what the other gates gave goes back."""
    place = gated(alpha=slow(3), beta=whole("quick"))
    place._key_gate(KEY)
    place.at_gate(refusing).verdicts["*"] = [Verdict(Code.ADMITTED), refusal]
    place.gates[refusing].allowance.spend = lambda ask: True  # type: ignore[method-assign]
    place.watch.open.clear()  # whoever waits for it waits for ever
    await place.serve(key=KEY)

    assert place.transport.hosts == ["alpha"]
    assert place.trail.attempts == 1
    assert place.budgets.pools["chat"].made == 0
    for gate in passed(place):
        assert [charged(s) for s in gate.settled if not s.flags & NOT_SENT] == [(7, 3, 13_000)]
    assert_clean(place)


@in_virtual_time
async def test_what_a_model_does_not_admit_goes_back_at_the_gates() -> None:
    """Nothing was sent there."""
    place = gated(alpha=slow(3), beta=whole())
    place.ledger.verdicts["beta.m"] = [Verdict(Code.AT_LIMIT, 1)]
    await place.serve(key=KEY)

    assert place.transport.hosts == ["alpha"]
    for gate in passed(place):
        assert sorted(s.flags & NOT_SENT for s in gate.settled) == [0, NOT_SENT]
    assert_clean(place)


@in_virtual_time
async def test_whatever_happens_there_is_one_answer_and_every_reservation_is_settled_once() -> None:
    """Two hundred races of every kind, each with a caller who may leave at any time."""
    draw = random.Random(11)
    for _ in range(200):
        await _one_race(draw)


async def _one_race(draw: random.Random) -> None:
    is_stream = draw.random() < 0.5
    scripts = {name: _some_answer(draw, is_stream, name) for name in ("alpha", "beta", "gamma")}
    place = (gated if draw.random() < 0.5 else house)(**scripts)
    for gate in passed(place):
        if draw.random() < 0.3:
            gate.wait = lambda: asyncio.sleep(draw.choice([0, 0.1, 1.0]))
        if draw.random() < 0.2:
            gate.verdicts["*"] = [Verdict(Code.ADMITTED), Verdict(Code.AT_LIMIT, 1, "rpm")]
    if draw.random() < 0.2:
        place.ledger.wait = lambda: asyncio.sleep(draw.choice([0, 0.1, 1.0]))
    if draw.random() < 0.2:
        place.reader.wait = lambda: asyncio.sleep(draw.choice([0, 0.3]))
    serving = place.start(stream=is_stream, deadline_s=draw.choice([None, None, 2.0]))
    if draw.random() < 0.3:
        assert place.interrupts is None
        asyncio.get_running_loop().call_later(
            draw.uniform(0.01, 4), lambda: place.interrupts and place.interrupts.client_left()
        )
    (end,) = await asyncio.gather(serving, return_exceptions=True)

    assert end is None or isinstance(end, ModelMeshError), repr(end)
    assert place.reader.ended + len(place.reader.errors) == (end is None)
    assert place.reader.begun <= 1
    assert sum(name.encode() in place.reader.body for name in scripts) <= 1
    reservations = [settlement.reservation for settlement in place.ledger.settled]
    assert len(set(reservations)) == len(reservations) <= len(place.ledger.asks)
    assert_clean(place, check_closed=False)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _some_answer(draw: random.Random, is_stream: bool, name: str) -> Any:
    """An answer, or what there is instead; its content is the provider's name."""
    seconds = draw.choice([0.0, 0.5, 0.999, 1.0, 1.001, 1.5, 2.0, 6.0])
    kind = draw.choice(["good", "good", "good", "refused", "garbage", "reset", "breaks"])
    if kind == "refused":
        return Answer(*refused(500).body.parts, status=500, wait=pause(seconds))
    if kind == "garbage":
        return Answer(b"garbage", wait=pause(seconds))
    if kind == "reset":
        return Answer(pause(seconds), httpx.ReadError("reset"))
    if not is_stream:
        return slow(seconds, name)
    if kind == "breaks":
        return stream(GOOD[0], pause(seconds), chunk(name), pause(0.7), httpx.ReadError("reset"))
    return slow_stream(seconds, name)


def assert_clean(place: House, *, check_closed: bool = True) -> None:
    """Nothing is left behind by either attempt."""
    assert place.ledger.open == set()
    assert [gate.open for gate in passed(place)] == [set()] * len(place.gates)
    assert place.signals.under_way_now == []
    assert place.router.in_flight == 0
    if check_closed:
        assert all(answer.body.closed == 1 for answer in place.transport.answers)
    assert asyncio.all_tasks() == {asyncio.current_task()}
