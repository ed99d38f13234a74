"""Callers who leave and servers that end: whenever it happens, the books are in order."""

from __future__ import annotations

import asyncio

import pytest

from node.routing.comfort import HOLD_HEAD_S
from shared_state.errors import ClientDisconnectedError
from shared_state.ledger import ESTIMATED, STREAM, Outcome
from tests.unit.node.routing.scene import CHARGED_IN_FULL, GOOD, charged, house
from tests.unit.node.scripted import (
    DONE,
    FAILED,
    FINISH,
    ROLE,
    USAGE,
    Answer,
    chunk,
    for_ever,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time, settle_down


@pytest.mark.parametrize(
    ("answer", "at_s"),
    [
        (stream(wait=for_ever), 1),
        (stream(ROLE, for_ever), 1),
        (stream(ROLE, for_ever), HOLD_HEAD_S + 1),
        (stream(chunk("one"), for_ever), 1),
        (stream(chunk("one"), chunk("two"), *[pause(1), chunk("x")] * 9), 4.5),
        (refused(500), 0.1),
        (Answer(for_ever, status=500), 1),
    ],
    ids=[
        "before the head",
        "before content",
        "comforted",
        "after content",
        "in the middle",
        "pause",
        "error body",
    ],
)
@in_virtual_time
async def test_a_caller_who_leaves_ends_the_work_at_once(answer: Answer, at_s: float) -> None:
    """Everything is closed and settled, nobody is blamed, nobody else is asked, nothing more is sent."""
    place = house(retry={"max_attempts": 3, "initial_delay": "10s"}, alpha=answer, beta=whole())
    task = place.start(stream=True)
    await asyncio.sleep(at_s)
    assert place.interrupts is not None
    seen = place.reader.body

    place.interrupts.client_left()
    with pytest.raises(ClientDisconnectedError):
        await task

    assert place.transport.hosts == ["alpha"]
    assert len(place.ledger.settled) == 1
    assert place.reader.body == seen
    assert place.reader.errors == []
    place.assert_clean()


@in_virtual_time
async def test_an_aborted_stream_is_charged_in_full_and_harms_nobody() -> None:
    """The provider may go on and bill; usage that was reported so far need not be all."""
    both = b'data: {"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'
    place = house(alpha=stream(both, both, for_ever))
    task = place.start(stream=True)
    await asyncio.sleep(1)
    assert place.interrupts is not None
    place.interrupts.client_left()
    await asyncio.wait([task])

    assert isinstance(task.exception(), ClientDisconnectedError)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    assert place.ledger.settled[0].flags == ESTIMATED | STREAM


@pytest.mark.parametrize(
    ("answer", "at_s"), [(whole(), 5), (stream(*GOOD, USAGE, DONE), 35)], ids=["whole", "stream"]
)
@in_virtual_time
async def test_a_caller_who_leaves_at_the_last_byte_pays_what_was_used(answer: Answer, at_s: float) -> None:
    """The answer was complete: its usage is exact, and nobody is blamed."""
    place = house(alpha=answer)
    place.reader.wait = pause(10)
    task = place.start(stream=answer.headers["content-type"] == "text/event-stream")
    await asyncio.sleep(at_s)
    assert place.interrupts is not None
    place.interrupts.client_left()
    await asyncio.wait([task])

    assert isinstance(task.exception(), ClientDisconnectedError)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == (7, 3, 13_000)
    place.assert_clean()


@in_virtual_time
async def test_a_caller_who_left_before_it_began_is_not_sent_anywhere() -> None:
    """Noticed before the admission."""
    place = house(alpha=whole())
    task = place.start()
    place.ledger.wait = pause(1)
    await settle_down()
    assert place.interrupts is not None
    place.interrupts.client_left()

    with pytest.raises(ClientDisconnectedError):
        await task
    assert place.transport.requests == []
    assert place.ledger.settled == []


@pytest.mark.parametrize(
    "answer",
    [
        stream(wait=for_ever),
        stream(ROLE, for_ever),
        stream(chunk("one"), for_ever),
        Answer(for_ever),
        Answer(for_ever, status=500),
    ],
    ids=["head", "before content", "after content", "whole", "error body"],
)
@in_virtual_time
async def test_a_server_that_ends_its_requests_is_obeyed(answer: Answer) -> None:
    """Cancellation passes through everything, and the books are in order behind it."""
    place = house(alpha=answer, beta=whole())
    task = place.start(stream=True)
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    place.assert_clean()


@in_virtual_time
async def test_whenever_a_caller_leaves_the_books_are_in_order() -> None:
    """At every step of a call with a failure, a pause, a failover and a stream."""
    for steps in range(0, 60, 1):
        place = house(
            retry={"max_attempts": 2, "initial_delay": "1s"},
            alpha=[refused(500), stream(ROLE, FAILED)],
            beta=stream(ROLE, chunk("one"), pause(1), chunk("two"), FINISH, USAGE, DONE),
        )
        task = place.start(stream=True)
        await settle_down(steps % 20)
        for _ in range(steps // 20):
            await asyncio.sleep(0.7)
        if place.interrupts is not None and not task.done():
            place.interrupts.client_left()
        await asyncio.wait([task])

        assert task.exception() is None or isinstance(task.exception(), ClientDisconnectedError)
        assert place.reader.errors == []
        if place.interrupts is not None:
            place.assert_clean()
