"""Pools that rather wait than switch: bounded in time and number, in order of arrival, and never past a deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.call import Call, Trail
from node.routing.interrupts import Interrupts
from node.signals import Signal
from shared_state.errors import ClientDisconnectedError, LimitReachedError
from shared_state.ledger import Code, Verdict
from tests.unit.node.house import NOW_MS, House, Reader, chat, mesh
from tests.unit.node.scripted import ScriptedTransport, pause, whole
from tests.unit.node.virtual_time import in_virtual_time, settle_down


def full(wait_s: float = 0.2) -> Verdict:
    """Refused, with room after so long; the house's clock stands still, so it is always so long from now."""
    return Verdict(Code.AT_LIMIT, NOW_MS + round(wait_s * 1000), "rpm")


class Scene:
    """A pool of one model or two that waits."""

    def __init__(self, action: str, *, models: tuple[str, ...] = ("alpha.m",), **rules: Any) -> None:
        rate_limit = {"action": action, "threshold": 0.9, **rules}
        topology = mesh(*models, pool={"strategy": "round-robin", "rate_limit": rate_limit})
        self.answer = whole()
        self.place = House(topology, ScriptedTransport(alpha=self.answer, beta=self.answer))
        self.now = asyncio.get_running_loop().time
        self.began = self.now()
        self.answered: list[tuple[str, float]] = []

    def refuse(self, *verdicts: Verdict, model: str = "alpha.m") -> None:
        self.place.ledger.verdicts[model] = list(verdicts)

    def near(self, model: str, headroom: float) -> None:
        self.place.signals.signals[model] = Signal(headroom=headroom)

    async def ask(self, name: str = "", call: Call | None = None, **fields: Any) -> str:
        """Serves one call; the model that did."""
        task = asyncio.current_task()
        assert task is not None
        trail = Trail()
        await self.place.router.serve(call or chat(**fields), Reader(), Interrupts(task), trail)
        self.answered.append((name, round(self.now() - self.began, 3)))
        assert trail.target is not None
        return trail.target.model.id

    def start(self, name: str) -> asyncio.Task[str]:
        return asyncio.get_running_loop().create_task(self.ask(name))


@in_virtual_time
@pytest.mark.parametrize("action", ["delay_request", "queue"])
async def test_a_request_waits_until_there_is_room(action: str) -> None:
    """As long as the refusal says, and looks in between: room may come earlier."""
    scene = Scene(action)
    scene.refuse(full(0.1), full(20.0), full(0.05))
    await scene.ask()

    assert scene.answered == [("", 0.4)]
    assert len(scene.place.ledger.asks) == 4


@in_virtual_time
async def test_a_pool_that_switches_refuses_at_once() -> None:
    """The default."""
    scene = Scene("switch_model")
    scene.refuse(full())
    with pytest.raises(LimitReachedError):
        await scene.ask()

    assert scene.now() == scene.began


@in_virtual_time
@pytest.mark.parametrize("action", ["delay_request", "queue"])
async def test_nobody_waits_for_what_comes_too_late(action: str) -> None:
    """The caller learns the time at once instead."""
    scene = Scene(action, max_wait="5s")
    scene.refuse(full(6.0))
    with pytest.raises(LimitReachedError) as refused:
        await scene.ask()

    assert refused.value.retry_after_s == pytest.approx(6.0)
    assert scene.now() == scene.began


@in_virtual_time
async def test_a_hold_ends_with_the_requests_own_deadline() -> None:
    """A refusal that tells nothing is looked at again and again, up to there."""
    scene = Scene("delay_request")
    scene.refuse(*[full(0.2)] * 100)
    with pytest.raises(LimitReachedError):
        await scene.ask(call=chat(deadline_s=2.0))

    assert 1.5 < scene.now() - scene.began <= 2.0


@in_virtual_time
async def test_what_can_never_be_admitted_is_not_waited_for() -> None:
    """A request larger than a limit."""
    scene = Scene("queue")
    scene.refuse(Verdict(Code.TOO_LARGE, -1, "tpm"))
    with pytest.raises(LimitReachedError) as refused:
        await scene.ask()

    assert refused.value.code == "request_too_large_for_limit"
    assert scene.now() == scene.began


@in_virtual_time
async def test_the_preferred_model_is_waited_for_near_its_limit() -> None:
    """The other one has room, but the pool says not to switch; what admission says decides when the hold is over."""
    scene = Scene("delay_request", models=("alpha.m", "beta.m"), max_wait="3s")
    for model in ("alpha.m", "beta.m"):
        scene.near(model, 0.05)
    task = scene.start("one")
    await asyncio.sleep(1.1)
    assert not task.done()
    scene.near("alpha.m", 0.5)
    scene.near("beta.m", 0.5)
    await task
    scene.near("alpha.m", 0.0)
    scene.near("beta.m", 0.0)
    await scene.ask("two")

    assert scene.answered == [("one", 1.25), ("two", 4.25)]


@in_virtual_time
async def test_a_queue_admits_in_order_of_arrival() -> None:
    """Whoever comes while others wait stands behind them, though there may be room by then."""
    scene = Scene("queue")
    scene.refuse(full(0.2), full(0.2))
    tasks = []
    for name in ("first", "second", "third"):
        tasks.append(scene.start(name))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)

    assert [name for name, _ in scene.answered] == ["first", "second", "third"]
    assert len(scene.place.ledger.asks) == 5


@in_virtual_time
async def test_the_next_in_line_does_not_wait_for_the_answer() -> None:
    """Admission makes room in the line."""
    scene = Scene("queue")
    scene.answer.wait = pause(5.0)
    scene.refuse(full(0.2))
    await asyncio.gather(scene.start("first"), scene.start("second"))

    assert scene.answered == [("first", 5.2), ("second", 5.2)]


@in_virtual_time
async def test_a_full_queue_refuses_at_once() -> None:
    """With a time to come back; who waits is not disturbed, and the place of one who left is free again."""
    scene = Scene("queue", queue_size=2)
    scene.refuse(full(0.2), full(0.2), full(0.2))
    assert scene.place.router.queued("chat") == 0
    waiting = [scene.start("first"), scene.start("second")]
    await settle_down()
    assert scene.place.router.queued("chat") == 2
    with pytest.raises(LimitReachedError) as refused:
        await scene.ask("third")
    await asyncio.gather(*waiting)
    await scene.ask("fourth")

    assert refused.value.retry_after_s == 1.0
    assert [name for name, _ in scene.answered] == ["first", "second", "fourth"]


@in_virtual_time
async def test_who_waits_too_long_is_refused_and_those_behind_move_up() -> None:
    """Each for its own time."""
    scene = Scene("queue", max_wait="2s")
    scene.refuse(*[full(0.2)] * 11)
    first = scene.start("first")
    await asyncio.sleep(0.5)
    second = scene.start("second")
    results = await asyncio.gather(first, second, return_exceptions=True)

    assert isinstance(results[0], LimitReachedError)
    assert results[1] == "alpha.m"


@in_virtual_time
async def test_callers_who_leave_make_room() -> None:
    """At the head of the line or in the middle of it."""
    scene = Scene("queue", queue_size=3)
    scene.refuse(*[full(5.0)] * 8)
    interrupts: list[Interrupts] = []

    async def leave_early() -> None:
        task = asyncio.current_task()
        assert task is not None
        interrupts.append(Interrupts(task))
        await scene.place.router.serve(chat(), Reader(), interrupts[-1], Trail())

    loop = asyncio.get_running_loop()
    leaving = [loop.create_task(leave_early()) for _ in range(2)]
    await settle_down()
    last = scene.start("last")
    await asyncio.sleep(0.6)
    for each in interrupts:
        each.client_left()
    results = await asyncio.gather(*leaving, return_exceptions=True)
    await last

    assert [type(result) for result in results] == [ClientDisconnectedError] * 2
    assert scene.place.router.in_flight == 0


@in_virtual_time
async def test_whose_deadline_comes_in_line_is_told_when_to_come_back() -> None:
    """Even when the hold could be longer, and a moment before it would be too late."""
    scene = Scene("queue")
    scene.refuse(*[full(5.0)] * 200)
    first = scene.start("first")
    await settle_down()
    with pytest.raises(LimitReachedError):
        await scene.ask(call=chat(deadline_s=1.0))
    assert 0.9 < scene.now() - scene.began < 1.0
    first.cancel()
    await asyncio.wait([first])

    assert scene.place.router.in_flight == 0


@in_virtual_time
async def test_requests_that_need_not_wait_take_one_turn_each() -> None:
    """A plan made twice would skip every other model."""
    scene = Scene("queue", models=("alpha.m", "beta.m"))

    assert [await scene.ask() for _ in range(4)] == ["alpha.m", "beta.m"] * 2
