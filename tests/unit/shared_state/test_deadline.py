"""A deadline ends what takes too long, and not what has merely not been looked at."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from shared_state.deadline import Deadline


async def test_what_takes_too_long_is_ended():
    """After the time and its grace."""
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        async with Deadline(0.05):
            await asyncio.Event().wait()
    assert 0.05 <= time.monotonic() - began < 1


async def test_an_answer_that_waits_in_the_socket_is_in_time():
    """A loop that was busy beyond the deadline still takes what has arrived meanwhile."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(b"PONG")

        async with Deadline(0.05):
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251 - the busy loop itself
            assert await asyncio.get_running_loop().sock_recv(ours, 4) == b"PONG"
            reader = asyncio.get_running_loop().sock_recv(ours, 4)
            asyncio.get_running_loop().call_soon(theirs.send, b"MORE")
            assert await reader == b"MORE"


async def test_a_cancellation_from_outside_stays_one():
    """Only its own end becomes a TimeoutError."""

    async def wait() -> None:
        async with Deadline(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
