"""Clocks and callers that leave: work ends, clean-up does not, and nobody else's cancellation is swallowed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from node.routing.interrupts import Cause, Interrupted, Interrupts
from tests.unit.node.virtual_time import VirtualLoop, in_virtual_time, settle_down

Work = Callable[[Interrupts], Awaitable[Any]]
#: Loops of the test: ours without waiting, asyncio's, and the one that carries the traffic.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "virtual": VirtualLoop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def on_every_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Runs an async test on each loop; real time passes on two of them."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(loop: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test())

    del run.__wrapped__  # pytest would look at the test's own arguments
    return run


async def start(work: Work) -> tuple[asyncio.Task[Any], Interrupts]:
    """A task that works under interrupts, as far as it gets by itself."""
    made: asyncio.Future[Interrupts] = asyncio.get_running_loop().create_future()

    async def run() -> Any:
        task = asyncio.current_task()
        assert task is not None
        interrupts = Interrupts(task)
        made.set_result(interrupts)
        try:
            return await work(interrupts)
        finally:
            interrupts.close()

    task = asyncio.get_running_loop().create_task(run())
    interrupts = await made
    await settle_down()
    return task, interrupts


async def outcome(task: asyncio.Task[Any]) -> object:
    """How a task ended: its result, the cause of its interruption, or ``cancelled``."""
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return task.result()
    assert isinstance(error, Interrupted)
    return error.cause


def assert_unharmed(task: asyncio.Task[Any]) -> None:
    """No cancellation is left over that would hit the next await."""
    assert task.cancelling() == 0


@on_every_loop
async def test_a_clock_ends_the_work() -> None:
    """With its cause, not before its time, and without a trace of cancellation."""
    loop = asyncio.get_running_loop()
    due = loop.time() + 0.02

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(due, Cause.FIRST_TOKEN)
        with interrupts:
            await asyncio.sleep(5)

    task, _ = await start(work)

    assert await outcome(task) == Cause.FIRST_TOKEN
    assert loop.time() >= due - 0.002
    assert_unharmed(task)


@on_every_loop
async def test_work_that_is_done_in_time_is_not_disturbed() -> None:
    """Its result comes back; nothing fires later."""

    async def work(interrupts: Interrupts) -> str:
        interrupts.set_clock(asyncio.get_running_loop().time() + 0.02, Cause.TOTAL)
        with interrupts:
            await asyncio.sleep(0)
        await asyncio.sleep(0.04)
        return "done"

    task, _ = await start(work)

    assert await outcome(task) == "done"
    assert_unharmed(task)


@on_every_loop
async def test_a_postponed_clock_waits_for_its_last_time() -> None:
    """Progress moves the clock by writing a number; the timer looks when it fires."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(began + 0.01, Cause.IDLE)
        with interrupts:
            for step in range(1, 4):
                interrupts.set_clock(began + 0.01 + step * 0.01, Cause.IDLE)
                await asyncio.sleep(0.005)
            await asyncio.sleep(5)

    task, _ = await start(work)

    assert await outcome(task) == Cause.IDLE
    assert loop.time() - began >= 0.038


@on_every_loop
async def test_a_caller_who_leaves_ends_the_work() -> None:
    """Before the first byte nothing else would tell."""

    async def work(interrupts: Interrupts) -> None:
        with interrupts:
            await asyncio.sleep(5)

    task, interrupts = await start(work)
    interrupts.client_left()

    assert await outcome(task) == Cause.GONE
    assert_unharmed(task)


@on_every_loop
async def test_a_caller_who_left_before_is_noticed_at_the_next_block() -> None:
    """Nothing in it begins."""

    async def work(interrupts: Interrupts) -> str:
        await asyncio.sleep(0.01)  # the caller leaves meanwhile
        try:
            with interrupts:
                return "began"
        except Interrupted as interrupted:
            await asyncio.sleep(0)
            return f"cleaned up after {interrupted.cause}"

    task, interrupts = await start(work)
    interrupts.client_left()

    assert await outcome(task) == "cleaned up after client_disconnected"
    assert_unharmed(task)


@on_every_loop
async def test_clean_up_is_never_interrupted() -> None:
    """Outside a block neither a clock nor a caller who leaves cancels anything."""
    log: list[str] = []

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(asyncio.get_running_loop().time() + 0.01, Cause.TOTAL)
        try:
            with interrupts:
                await asyncio.sleep(5)
        finally:
            interrupts.set_clock(asyncio.get_running_loop().time() + 0.01, Cause.IDLE)
            await asyncio.sleep(0.03)
            log.append("cleaned")

    task, interrupts = await start(work)
    asyncio.get_running_loop().call_later(0.02, interrupts.client_left)

    assert await outcome(task) == Cause.TOTAL
    assert log == ["cleaned"]
    assert_unharmed(task)


@on_every_loop
async def test_clean_up_within_a_block_is_interrupted_once() -> None:
    """A ``finally`` inside the block runs to its end, even if the caller leaves during it."""
    log: list[str] = []

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(asyncio.get_running_loop().time() + 0.01, Cause.TOTAL)
        with interrupts:
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(0.02)
                log.append("cleaned")

    task, interrupts = await start(work)
    asyncio.get_running_loop().call_later(0.02, interrupts.client_left)

    assert await outcome(task) == Cause.TOTAL
    assert log == ["cleaned"]


@on_every_loop
async def test_a_cancellation_from_outside_passes_through() -> None:
    """A server that ends its requests is obeyed, in a block and outside."""

    async def inside(interrupts: Interrupts) -> None:
        interrupts.set_clock(asyncio.get_running_loop().time() + 5, Cause.TOTAL)
        with interrupts:
            await asyncio.sleep(5)

    async def outside(interrupts: Interrupts) -> None:
        await asyncio.sleep(5)

    for work in (inside, outside):
        task, _ = await start(work)
        task.cancel()
        assert await outcome(task) == "cancelled"


@pytest.mark.parametrize("ours_first", [True, False])
@in_virtual_time
async def test_two_cancellations_at_once_are_not_one(ours_first: bool) -> None:
    """A caller who leaves in the moment of a server's cancellation must not undo it."""

    async def work(interrupts: Interrupts) -> None:
        with interrupts:
            await asyncio.sleep(5)

    task, interrupts = await start(work)
    for end in (interrupts.client_left, task.cancel)[:: 1 if ours_first else -1]:
        end()

    assert await outcome(task) == "cancelled"


@in_virtual_time
async def test_a_task_that_was_cancelled_before_can_still_be_interrupted() -> None:
    """Clean-up after a cancellation may have a block of its own."""

    async def work(interrupts: Interrupts) -> object:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            interrupts.set_clock(asyncio.get_running_loop().time() + 1, Cause.TOTAL)
            try:
                with interrupts:
                    await asyncio.sleep(5)
            except Interrupted as interrupted:
                return interrupted.cause
        return None

    task, _ = await start(work)
    task.cancel()

    assert await outcome(task) == Cause.TOTAL


@on_every_loop
async def test_an_error_of_the_work_itself_passes() -> None:
    """Interrupts change nothing about what they did not cause."""

    async def work(interrupts: Interrupts) -> str:
        try:
            with interrupts:
                raise LookupError("mine")
        except LookupError as error:
            return str(error)

    task, _ = await start(work)

    assert await outcome(task) == "mine"


@in_virtual_time
async def test_blocks_follow_each_other() -> None:
    """An interruption is used up; the next block works until its own clock."""
    loop = asyncio.get_running_loop()
    began, log = loop.time(), []

    async def work(interrupts: Interrupts) -> None:
        for cause in (Cause.FIRST_TOKEN, Cause.IDLE, Cause.DEADLINE):
            interrupts.set_clock(loop.time() + 1, cause)
            try:
                with interrupts:
                    await asyncio.sleep(5)
            except Interrupted as interrupted:
                log.append((interrupted.cause, loop.time() - began))

    await (await start(work))[0]

    assert log == [(Cause.FIRST_TOKEN, 1.0), (Cause.IDLE, 2.0), (Cause.DEADLINE, 3.0)]


@in_virtual_time
async def test_a_clock_can_be_set_earlier() -> None:
    """The timer is moved when the new time comes first."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(began + 9, Cause.TOTAL)
        interrupts.set_clock(began + 2, Cause.IDLE)
        with interrupts:
            await asyncio.sleep(50)

    task, _ = await start(work)

    assert await outcome(task) == Cause.IDLE
    assert loop.time() - began == 2


@in_virtual_time
async def test_a_clock_that_ran_out_between_blocks_ends_the_next_one() -> None:
    """Time spent outside counts."""
    loop = asyncio.get_running_loop()

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(loop.time() + 1, Cause.DEADLINE)
        await asyncio.sleep(3)
        with interrupts:
            await asyncio.sleep(5)

    began = loop.time()
    task, _ = await start(work)

    assert await outcome(task) == Cause.DEADLINE
    assert loop.time() - began == 3


@in_virtual_time
async def test_no_timer_outlives_its_request() -> None:
    """A million finished requests leave no timers behind."""

    async def work(interrupts: Interrupts) -> None:
        for seconds in (300, 20, 100):
            interrupts.set_clock(asyncio.get_running_loop().time() + seconds, Cause.TOTAL)
        with interrupts:
            await asyncio.sleep(0)

    await (await start(work))[0]
    live = [h for h in asyncio.get_running_loop()._scheduled if not h.cancelled()]  # type: ignore[attr-defined]

    assert live == []


@in_virtual_time
async def test_postponing_a_clock_makes_no_timers() -> None:
    """A stream of thousands of pieces pays for one timer at a time."""
    loop = asyncio.get_running_loop()

    async def work(interrupts: Interrupts) -> None:
        interrupts.set_clock(loop.time() + 1, Cause.IDLE)
        with interrupts:
            for _ in range(1000):
                interrupts.set_clock(loop.time() + 300, Cause.GONE)
                interrupts.set_clock(loop.time() + 1, Cause.IDLE)
        assert len(loop._scheduled) == 1  # type: ignore[attr-defined]

    await (await start(work))[0]


@in_virtual_time
async def test_whenever_the_caller_leaves_the_end_is_the_same() -> None:
    """At every step of work with blocks and clean-up between them: ended as gone, cleaned up, nothing left over."""
    for steps in range(12):
        cleaned: list[int] = []

        async def work(interrupts: Interrupts, cleaned: list[int] = cleaned) -> None:
            for _ in range(3):
                try:
                    with interrupts:
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                finally:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    cleaned.append(1)
            with interrupts:
                await asyncio.sleep(5)

        task = asyncio.get_running_loop().create_task(_with_interrupts(work, leave_after=steps))

        assert await outcome(task) == Cause.GONE
        assert_unharmed(task)
        assert len(cleaned) <= 3


async def _with_interrupts(work: Work, *, leave_after: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    interrupts = Interrupts(task)

    async def leave() -> None:
        for _ in range(leave_after):
            await asyncio.sleep(0)
        interrupts.client_left()

    leaving = asyncio.get_running_loop().create_task(leave())
    try:
        await work(interrupts)
    finally:
        interrupts.close()
        await leaving
