"""Which model a session belongs to: the cluster's map, remembered here so that only the first sight of a session costs a round trip.

What is remembered holds until the quota domain of the model changes: a session moves only when its model went on standby, and that is news
that every node hears of. When Redis is away nodes go by what they remember, and else by the same wish.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.watch import StoreWatch
from shared_state.sessions import hold_session, read_session
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import PoolSpec

_REMEMBERED: Final = 20_000
#: Part of a session's life after which it is kept alive again. Redis keeps it that much longer, so that silence is never overestimated.
_RENEW_PART: Final = 0.25


@dataclass(slots=True)
class _Held:
    model: str
    epoch: int
    told_at: float
    used_at: float


class Sessions:
    """Sessions of all pools.

    Args:
        epoch_of: epoch of a model's quota domain, as this node knows it.
    """

    def __init__(self, store: Store, watch: StoreWatch, *, epoch_of: Callable[[str], int]) -> None:
        self._store = store
        self._watch = watch
        self._epoch_of = epoch_of
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._moves: set[asyncio.Task[None]] = set()

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The session's model; a new session gets ``wish``, unless another node was faster."""
        now, life_s = asyncio.get_running_loop().time(), pool.config.session_timeout
        held = self._held.get((pool.id, session))
        if held is not None and now - held.used_at >= life_s:
            held = None
        if held is not None:
            held.used_at = now
            is_told = now - held.told_at < life_s * _RENEW_PART
            if (is_told and held.epoch == self._epoch_of(held.model)) or not self._watch.connected:
                return held.model
        return await self._hold(pool, session, seen="", model=held.model if held else wish)

    async def peek(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The session's model, or ``wish`` if it had none; it does not get it, nor does it live longer for it.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        if self._watch.connected:
            return await read_session(self._store, pool.id, session) or wish
        held = self._held.get((pool.id, session))
        return held.model if held else wish

    def move(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> None:
        """Moves a session, in the background, unless another node has moved it."""
        self._remember(pool, session, model)
        task = asyncio.get_running_loop().create_task(self._move(pool, session, seen, model))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, pool: PoolSpec, session: str, seen: str, model: str) -> None:
        await self._hold(pool, session, seen=seen, model=model)

    async def _hold(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> str:
        if self._watch.connected:
            life_ms = round(pool.config.session_timeout * (1 + _RENEW_PART) * 1000)
            try:
                model = await hold_session(
                    self._store, pool.id, session, seen=seen, model=model, life_ms=life_ms
                )
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
        self._remember(pool, session, model)
        return model

    def _remember(self, pool: PoolSpec, session: str, model: str) -> None:
        now = asyncio.get_running_loop().time()
        # Without Redis nothing was told: the first request after its return asks again.
        told_at = now if self._watch.connected else float("-inf")
        self._held[pool.id, session] = _Held(model, self._epoch_of(model), told_at, now)
        self._held.move_to_end((pool.id, session))
        if len(self._held) > _REMEMBERED:
            self._held.popitem(last=False)
