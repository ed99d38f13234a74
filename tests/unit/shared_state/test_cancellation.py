"""The end of tasks, and cancellations that get lost on the way."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from shared_state.cancellation import end_all, obey_cancellation


async def test_a_swallowed_cancellation_is_obeyed_in_the_end() -> None:
    """Somebody below has caught it and gone on: the loop ends at its next look."""

    async def loop() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            obey_cancellation()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)


async def test_a_timeout_of_ones_own_is_no_cancellation() -> None:
    """What `asyncio.timeout` has cancelled and taken back does not count."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)

    obey_cancellation()


async def test_whoever_ends_tasks_waits_for_their_last_act() -> None:
    """One that cleans up has done so, one that had failed stays silent, one that was done stays as it was."""
    cleaned = []

    async def works() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def fails() -> None:
        raise ValueError

    tasks = [
        asyncio.create_task(works()),
        asyncio.create_task(fails()),
        asyncio.create_task(asyncio.sleep(0, 7)),
    ]
    await asyncio.sleep(0.001)
    await end_all(tasks)

    assert [task.done() for task in tasks] == [True] * 3
    assert cleaned == [True]
    assert tasks[2].result() == 7
