"""A deadline ends what takes too long, and not what has merely not been looked at."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from shared_state.deadline import Deadline, Deadlines


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


async def test_each_of_many_calls_has_its_own_time():
    """One timer serves all: who began later may go on longer, and who was done in time is left alone."""
    deadlines = Deadlines(0.1)
    began = time.monotonic()

    async def take(start_s: float, takes_s: float) -> float:
        await asyncio.sleep(start_s)
        try:
            with deadlines.begin():
                await asyncio.sleep(takes_s)
        except TimeoutError:
            return time.monotonic() - began
        return 0.0

    first, done, later = await asyncio.gather(take(0, 60), take(0, 0.01), take(0.06, 60))

    assert done == 0
    assert 0.1 <= first < later
    assert 0.16 <= later < 2
    with deadlines.begin():
        await asyncio.sleep(0.02)


async def test_an_answer_is_in_time_for_one_of_many_too():
    """A loop that was busy beyond the deadline still takes what has arrived meanwhile."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = asyncio.get_running_loop().sock_recv(ours, 4)
        with Deadlines(0.05).begin():
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)
            asyncio.get_running_loop().call_soon(theirs.send, b"PONG")
            assert await reader == b"PONG"


async def test_a_cancellation_from_outside_stays_one_for_many_too():
    """Only their own end becomes a TimeoutError, and the next call has its whole time."""
    deadlines = Deadlines(5)

    async def wait() -> None:
        with deadlines.begin():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines._calls
