"""A node's share of the pools' cursors: turns taken in blocks, so that an even spread costs no round trip per request."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from node.watch import StoreWatch
from shared_state.cursors import move_current, next_turn, take_turns
from shared_state.store import STORE_ERRORS, Store

_SMALLEST: Final = 1
_LARGEST: Final = 64
_REFILLS: Final = 16


class Turns:
    """Turns of one pool. Blocks grow while they are used up quickly, so that a quiet node holds hardly any."""

    def __init__(self, store: Store, pool: str, watch: StoreWatch) -> None:
        self._store = store
        self._pool = pool
        self._watch = watch
        # Until the first block and while Redis is away: our own sequence.
        self._next = random.randrange(1 << 16)
        self._end = self._next
        self._spare: tuple[int, int] | None = None  # taken ahead; used when the block at hand is used up
        self._block = _SMALLEST
        self._taken_at = 0.0
        self._taking: asyncio.Task[None] | None = None

    async def take(self) -> int:
        """The next turn."""
        if self._next >= self._end:
            await self._refill()
        elif self._spare is None and self._end - self._next <= self._block // 4:
            self._start_taking()
        turn = self._next
        self._next += 1
        return turn

    async def peek(self) -> int:
        """The turn that the next request would take.

        Raises:
            RedisError, OSError, TimeoutError: none is at hand, and the store is away.
        """
        if self._next < self._end or not self._watch.connected:
            return self._next
        return self._spare[0] if self._spare else await next_turn(self._store, self._pool)

    async def _refill(self) -> None:
        for _ in range(
            _REFILLS
        ):  # a crowd may use up a block before its last member wakes up; blocks double meanwhile
            if self._open_spare() or self._next < self._end or not self._watch.connected:
                break
            self._start_taking()
            if self._taking is not None:
                await asyncio.shield(self._taking)
        if self._next >= self._end and not self._open_spare():
            self._end = self._next + 1

    def _open_spare(self) -> bool:
        if self._spare is None or self._next < self._end:
            return False
        (self._next, self._end), self._spare = self._spare, None
        return True

    def _start_taking(self) -> None:
        if self._taking is None and self._watch.connected:
            self._taking = asyncio.get_running_loop().create_task(self._take_block())

    async def _take_block(self) -> None:
        now = asyncio.get_running_loop().time()
        self._block = min(_LARGEST, self._block * 2) if now - self._taken_at < 1.0 else _SMALLEST
        self._taken_at = now
        try:
            first = await take_turns(self._store, self._pool, self._block)
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
        else:
            self._spare = (first, first + self._block)
        finally:
            self._taking = None


class Cursors:
    """Turns and pointers of all pools."""

    def __init__(self, store: Store, watch: StoreWatch, current: dict[str, str]) -> None:
        self._store = store
        self._watch = watch
        self._turns: dict[str, Turns] = {}
        self._moves: set[asyncio.Task[None]] = set()
        self.current = current

    async def turn(self, pool: str) -> int:
        """The next turn of a pool."""
        return await self._of(pool).take()

    async def peek(self, pool: str) -> int:
        """The turn that the next request would take.

        Raises:
            RedisError, OSError, TimeoutError: none is at hand, and the store is away.
        """
        return await self._of(pool).peek()

    def _of(self, pool: str) -> Turns:
        turns = self._turns.get(pool)
        if turns is None:
            turns = self._turns[pool] = Turns(self._store, pool, self._watch)
        return turns

    def point_at(self, pool: str, model: str) -> None:
        """Moves a sticky pool's pointer, in the background, unless another node was faster."""
        seen = self.current.get(pool, "")
        self.current[pool] = model
        task = asyncio.get_running_loop().create_task(self._move(pool, seen, model))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, pool: str, seen: str, model: str) -> None:
        if not self._watch.connected:
            return
        try:
            self.current[pool] = await move_current(self._store, pool, seen=seen, model=model)
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
