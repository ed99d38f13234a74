"""The end of tasks: whoever cancels waits for it, and a cancellation that was swallowed on its way is obeyed.

Up to Python 3.11 ``asyncio.wait_for``, which the Redis client calls for every command, drops a cancellation that arrives
together with its result. A loop that talks to Redis and never ends by itself would then never end at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def end_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels all of them and returns when they have ended, however they have."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def obey_cancellation() -> None:
    """Raises if this task was cancelled and has not noticed.

    Raises:
        asyncio.CancelledError: as the cancellation should have.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
