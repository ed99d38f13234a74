"""An event loop in a thread of its own, for programs that have none; it does not keep the interpreter from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar, TypeVarTuple

from modelmesh.bridge import wait_for

_END_S: Final = 10.0
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LoopThread:
    """The standard library's loop: another one could take over the program's signals."""

    def __init__(self, name: str) -> None:
        self._begun = threading.Event()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._begun.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to; an interrupted wait cancels it."""
        return wait_for(asyncio.run_coroutine_threadsafe(work, self._loop), self._loop)

    def end(self) -> None:
        """Cancel what still runs, close the loop, end the thread."""
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_END_S)

    def _main(self) -> None:
        with (
            _LastingExecutor(thread_name_prefix="modelmesh") as executor,
            asyncio.Runner(loop_factory=lambda: _Loop(executor)) as runner,
        ):
            self._loop = runner.get_loop()
            runner.run(self._until_told())

    async def _until_told(self) -> None:
        self._end = asyncio.Event()
        self._begun.set()
        await self._end.wait()


class _Loop(asyncio.SelectorEventLoop):
    """With an executor that it does not shut down: it would start a thread for that, which nobody may while the interpreter ends."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        return super().run_in_executor(executor or self._executor, func, *args)


class _LastingExecutor(ThreadPoolExecutor):
    """Works on while the interpreter ends: executors take nothing then, and the last flush comes after that."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            return _do_here(fn, *args, **kwargs)


def _do_here(work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    done: Future[T] = Future()
    try:
        done.set_result(work(*args, **kwargs))
    except BaseException as error:
        done.set_exception(error)
    return done
