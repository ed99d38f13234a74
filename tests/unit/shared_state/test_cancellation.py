"""Cancellations that get lost on the way."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from shared_state.cancellation import obey_cancellation


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
