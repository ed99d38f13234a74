"""An event loop whose clock jumps: waiting costs nothing, order and durations are exact, and a deadlock is an error at once."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events:
            return events
        if timeout is None:
            raise RuntimeError("deadlock: every task waits for something that nobody will do")
        self.now_s += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.faults: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.faults.append(context))

    def time(self) -> float:
        return self._jumping.now_s


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an async test on a VirtualLoop; an error that no task has taken fails it."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loops: list[VirtualLoop] = []

        def make() -> VirtualLoop:
            loops.append(VirtualLoop())
            return loops[-1]

        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(test(*args, **kwargs))
        assert loops[0].faults == []

    return run


async def settle_down(turns: int = 20) -> None:
    """Lets every task that can run do so, without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)
