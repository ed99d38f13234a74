"""While the first content is awaited: our head after a while, then comments."""

from __future__ import annotations

import asyncio

import pytest

from node.call import Trail, Voice
from node.routing.comfort import HEARTBEAT_S, HOLD_HEAD_S, Comfort
from tests.unit.node.house import Reader
from tests.unit.node.scripted import for_ever
from tests.unit.node.virtual_time import in_virtual_time

WAITING = b": waiting\n\n"


@in_virtual_time
async def test_a_quick_stream_gets_no_comfort() -> None:
    """Nothing is sent, and no timer stays."""
    reader = Reader()
    comfort = Comfort(reader, Trail())
    await asyncio.sleep(HOLD_HEAD_S - 0.1)

    await comfort.stop()
    await asyncio.sleep(60)

    assert reader.begun == 0
    assert reader.body == b""


@in_virtual_time
async def test_a_slow_stream_gets_its_head_and_comments() -> None:
    """The head once, a comment at once and one every ten seconds."""
    reader = Reader()
    comfort = Comfort(reader, Trail())

    await asyncio.sleep(HOLD_HEAD_S + 0.1)
    assert reader.begun == 1
    assert reader.body == WAITING
    await asyncio.sleep(2 * HEARTBEAT_S)
    await comfort.stop()
    await asyncio.sleep(60)

    assert reader.begun == 1
    assert reader.body == WAITING * 3


@in_virtual_time
async def test_a_head_that_was_sent_is_not_sent_again() -> None:
    """The attempt before this one may have comforted already."""
    reader = Reader()
    await reader.begin(Trail())
    comfort = Comfort(reader, Trail())
    await asyncio.sleep(HOLD_HEAD_S + 0.1)
    await comfort.stop()

    assert reader.begun == 1
    assert reader.body == WAITING


@in_virtual_time
async def test_stopping_ends_a_comment_that_is_stuck() -> None:
    """A reader who takes nothing does not hold up the content."""
    reader = Reader()
    reader.wait = for_ever
    comfort = Comfort(reader, Trail())
    await asyncio.sleep(HOLD_HEAD_S + 0.1)

    async with asyncio.timeout(1):
        await comfort.stop()

    assert reader.body == b""


@in_virtual_time
async def test_stopping_does_not_swallow_a_cancellation() -> None:
    """A request that is cancelled while comfort ends stays cancelled."""
    reader = Reader()
    held = asyncio.Event()

    async def cling() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await held.wait()

    reader.wait = cling
    comfort = Comfort(reader, Trail())
    await asyncio.sleep(HOLD_HEAD_S + 0.1)
    stopping = asyncio.create_task(comfort.stop())
    await asyncio.sleep(1)
    stopping.cancel()
    held.set()
    await asyncio.wait([stopping])

    assert stopping.cancelled()


@in_virtual_time
async def test_a_failure_to_send_is_told_by_stop() -> None:
    """It is not lost in a background task."""
    reader = Reader()

    async def fail() -> None:
        raise RuntimeError("the connection is odd")

    reader.wait = fail
    comfort = Comfort(reader, Trail())
    await asyncio.sleep(HOLD_HEAD_S + 0.1)

    with pytest.raises(RuntimeError, match="odd"):
        await comfort.stop()


@in_virtual_time
async def test_in_anthropics_streams_it_is_an_event() -> None:
    """Its clients know it, and pass over it."""
    reader = Reader()
    comfort = Comfort(reader, Trail(), Voice.ANTHROPIC)
    await asyncio.sleep(HOLD_HEAD_S + 0.1)
    await comfort.stop()

    assert reader.body == b'event: ping\ndata: {"type":"ping"}\n\n'
