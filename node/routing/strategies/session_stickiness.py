"""A session stays on its model while that is active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy, options_of
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import SessionOptions
from shared_state.sessions import session_digest
from shared_state.topology import ModelSpec


class SessionStickiness(Strategy):
    """The map of sessions is shared by the cluster; where it does not know a session, all nodes guess the same model.

    New sessions go to the first of the priority lists; without any they are spread by rendezvous hashing, so a change of members moves
    no session that it need not move. Requests without a session go by pool order.
    """

    id: ClassVar[str] = "modelmesh.session-stickiness.v1"
    needs = frozenset({Need.SESSION})

    def __init__(self, options: SessionOptions) -> None:
        self._is_strict = options.affinity_mode == "strict"
        self._has_order = bool(options.model_priority or options.provider_priority)

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With the mode and the lists of the pool."""
        return cls(options_of(pool, cls.id, SessionOptions))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The session's model first; a strict session has no other."""
        order = list(candidates)
        if not request.session:
            return order
        if not self._has_order:
            digest = session_digest(request.session)
            order.sort(key=lambda spec: _affinity(digest, spec.id), reverse=True)
        if self._is_strict and any(spec.id == hints.held for spec in hints.order):
            return [spec for spec in order if spec.id == hints.held]
        return sorted(order, key=lambda spec: spec.id != hints.held)


def _affinity(session: str, model: str) -> bytes:
    return blake2b(f"{session}\0{model}".encode(), digest_size=8).digest()
