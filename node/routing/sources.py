"""What the stages are told, as they see it: by a node while it serves, by a look that changes nothing, or by a record of what was."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from node.signals import Signal
from shared_state.state import EntityState
from shared_state.topology import ModelSpec, PoolSpec, Topology


class Clock(Protocol):
    """Server time."""

    def now_ms(self) -> int:
        """In unix milliseconds."""


class View(Protocol):
    """States of models and accounts; a node's is ``node.snapshot.Snapshot``."""

    is_complete: asyncio.Event

    @property
    def topology(self) -> Topology:
        """The configuration in force."""

    @property
    def clock(self) -> Clock:
        """Server time, by which states are judged."""

    def model(self, spec: ModelSpec) -> EntityState:
        """A model's state."""

    def provider(self, spec: ModelSpec) -> EntityState:
        """The state of the account that a model runs on."""


class Pointers(Protocol):
    """Turns and pointers of pools; a node's are ``node.routing.cursors.Cursors``."""

    @property
    def current(self) -> Mapping[str, str]:
        """The model that each sticky pool points at."""

    async def turn(self, pool: str) -> int:
        """A request's turn in a pool."""

    async def peek(self, pool: str) -> int:
        """The turn that the next request would take."""

    def point_at(self, pool: str, model: str) -> None:
        """Moves a pool's pointer."""


class Belonging(Protocol):
    """Which model a session belongs to; a node's is ``node.routing.sessions.Sessions``."""

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The session's model; a new session gets ``wish``."""

    async def peek(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The session's model, or ``wish``; nothing changes."""

    def move(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> None:
        """Moves a session."""


class Gauge(Protocol):
    """How models do over the cluster; a node's is ``node.signals.Signals``."""

    def of(self, model: str) -> Signal:
        """A model, as far as can be told now."""


class LookingPointers:
    """A node's turns and pointers for one who only wants to see: no turn is taken, no pointer moves."""

    def __init__(self, pointers: Pointers) -> None:
        self._pointers = pointers

    @property
    def current(self) -> Mapping[str, str]:
        """The model that each sticky pool points at."""
        return self._pointers.current

    async def turn(self, pool: str) -> int:
        """The turn that the next request would take."""
        return await self._pointers.peek(pool)

    async def peek(self, pool: str) -> int:
        """The same."""
        return await self._pointers.peek(pool)

    def point_at(self, pool: str, model: str) -> None:
        """Does nothing."""


class LookingSessions:
    """A node's sessions for one who only wants to see: none is begun, moved or kept alive."""

    def __init__(self, sessions: Belonging) -> None:
        self._sessions = sessions

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The session's model; for a new session ``wish``, which it would get."""
        return await self._sessions.peek(pool, session, wish)

    async def peek(self, pool: PoolSpec, session: str, wish: str) -> str:
        """The same."""
        return await self._sessions.peek(pool, session, wish)

    def move(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> None:
        """Does nothing."""
