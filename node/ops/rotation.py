"""Moves a pool on to its next model, by an operator's order.

A pool that keeps a pointer moves it: nobody is harmed. Elsewhere the first active member goes to standby, so that the next one in pool
order stands in front.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.routing.strategies import Need, Strategy
from node.snapshot import Snapshot
from shared_state.cursors import move_current, read_current
from shared_state.domains import order, tell
from shared_state.errors import RequestError
from shared_state.shapes.status import RotateBody, RotationView
from shared_state.store import Store
from shared_state.topology import ModelSpec, PoolSpec

_EVENT = "model_rotated"


class Rotation:
    """Carries out the order; ``node`` signs it."""

    def __init__(self, store: Store, snapshot: Snapshot, *, node: str) -> None:
        self._store = store
        self._snapshot = snapshot
        self._node = node

    async def rotate(self, pool: PoolSpec, strategy: Strategy, body: RotateBody) -> RotationView:
        """Moves the pool on; sent twice it moves twice.

        Raises:
            RequestError: no other member is active, or the order makes no sense for this pool.
            RedisError, OSError, TimeoutError: the store is away; it may have been moved.
        """
        is_sticky = Need.POINTER in strategy.needs
        if is_sticky and body.for_s:
            raise RequestError(
                f"pool {pool.id!r} moves its pointer and puts nobody on standby: there is nothing to end after a time",
                param="for_s",
            )
        was, now = await (self._move_pointer(pool) if is_sticky else self._retire_first(pool, body))
        await tell(
            self._store,
            now.domain,
            event=_EVENT,
            name=now.id,
            reason=f"{pool.id}: {body.reason}",
            node=self._node,
        )
        return RotationView(
            pool=pool.id,
            strategy=pool.strategy,
            by="pointer" if is_sticky else "standby",
            was=was.id if was else None,
            now=now.id,
        )

    async def _move_pointer(self, pool: PoolSpec) -> tuple[ModelSpec | None, ModelSpec]:
        seen = await read_current(self._store, pool.id)
        was = next((model for model in pool.models if model.id == seen), None) or self._first_active(pool)
        now = self._after(pool, was)
        moved = await move_current(self._store, pool.id, seen=seen, model=now.id)
        if moved != now.id:
            raise RequestError(f"pool {pool.id!r} has just moved on to {moved}", code="already_rotated")
        return was, now

    async def _retire_first(self, pool: PoolSpec, body: RotateBody) -> tuple[ModelSpec, ModelSpec]:
        was = self._first_active(pool)
        if was is None:
            raise RequestError(f"no model of pool {pool.id!r} is active", code="nothing_to_rotate")
        now = self._after(pool, was)
        await order(
            self._store,
            was.domain,
            kind="model",
            name=was.id,
            action="deactivate",
            reason=body.reason,
            for_s=body.for_s or 0,
            node=self._node,
        )
        return was, now

    def _first_active(self, pool: PoolSpec) -> ModelSpec | None:
        return next(filter(self._snapshot.is_active, pool.models), None)

    def _after(self, pool: PoolSpec, was: ModelSpec | None) -> ModelSpec:
        """The next active member in pool order, around the end."""
        for model in _around(pool.models, was):
            if model is not was and self._snapshot.is_active(model):
                return model
        raise RequestError(f"no other model of pool {pool.id!r} is active", code="nothing_to_rotate")


def _around(models: Sequence[ModelSpec], start: ModelSpec | None) -> list[ModelSpec]:
    place = models.index(start) if start in models else 0
    return [*models[place:], *models[:place]]
